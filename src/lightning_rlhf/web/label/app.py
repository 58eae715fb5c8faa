"""The application behind the page: questions, choices, undoing, and what is known about the people."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field, StringConstraints

from lightning_rlhf.data.verdicts import Verdict
from lightning_rlhf.web.common.app import page_app
from lightning_rlhf.web.label.agreement import agreements, habits, team_agreement
from lightning_rlhf.web.label.choices import Choice
from lightning_rlhf.web.label.desk import AnsweredOtherwise, Desk
from lightning_rlhf.web.label.differences import differences
from lightning_rlhf.web.label.questions import Question, Said
from lightning_rlhf.web.label.supply import Supply
from lightning_rlhf.web.markdown import to_html

Person = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]
_LONGEST = 100_000
_UNKNOWN = "The server does not have this question any more, so nothing was saved. This is another one."
_ANSWERED = "You have answered this question in another window. That answer stays, and this one was not saved."
_FILES = ("page.css", "act.js", "show.js", "talk.js")


class OfPerson(BaseModel):
    """A request of a person."""

    person: Person


class Undone(OfPerson):
    """Takes a choice back."""

    choice: str


class Asked(OfPerson):
    """Names a question."""

    item: str
    round: Literal[0, 1]


class Sent(Asked):
    """What the page sends about a question; see `Said`. `token` says what the page shows."""

    token: str
    verdict: Verdict
    pick: int | None = Field(None, ge=0)
    strength: Literal[1, 2, 3] | None = None
    edited: str = Field("", max_length=_LONGEST)
    comment: str = Field("", max_length=_LONGEST)
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)


def make_app(desk: Desk, supply: Supply, *, host: str, password: str | None, default_person: str = "") -> FastAPI:
    """Makes the application.

    Args:
        desk: Asks questions and takes answers.
        supply: Makes items in the background.
        host: The address at which the application listens.
        password: The password of the page, if it has one.
        default_person: The name that the page suggests to a person who has none yet.
    """
    app = page_app("label", __package__, _FILES, host=host, password=password)

    @app.get("/settings")
    def settings() -> dict[str, str]:
        return {"person": default_person, "file": str(desk.book.out)}

    @app.post("/question")
    def question(asked: OfPerson) -> dict[str, Any]:
        return _state(desk, supply, asked.person)

    @app.post("/answer")
    def answer(sent: Sent) -> dict[str, Any]:
        said = Said(sent.verdict, sent.pick, sent.strength, sent.edited, sent.comment, sent.seconds)
        try:
            if desk.as_question(sent.person, sent.item, sent.round).token != sent.token:
                raise HTTPException(409, "The question has changed, so nothing was saved. This is what it is now.")
            desk.answer(sent.person, sent.item, sent.round, said)
        except KeyError as error:
            raise HTTPException(404, _UNKNOWN) from error
        except AnsweredOtherwise as error:
            raise HTTPException(409, _ANSWERED) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except OSError as error:
            raise _unsaved(desk, error) from error
        return _state(desk, supply, sent.person)

    @app.post("/undo")
    def undo(undone: Undone) -> dict[str, Any]:
        try:
            choice = desk.undo(undone.person, undone.choice)
        except OSError as error:
            raise _unsaved(desk, error) from error
        return {**_state(desk, supply, undone.person), "before": None if choice is None else _before(choice)}

    @app.post("/differences")
    def marked(asked: Asked) -> list[str]:
        if asked.item not in desk.book.items:
            raise HTTPException(404, _UNKNOWN)
        return differences(desk.as_question(asked.person, asked.item, asked.round).texts)

    @app.get("/people")
    def people() -> dict[str, Any]:
        known = desk.people()
        team = team_agreement(known)
        return {
            "people": [habits(*one)._asdict() for one in known],
            "agreements": [one._asdict() for one in agreements(known, dict(desk.book.items))],
            "team": None if team is None else team._asdict(),
        }

    return app


def _unsaved(desk: Desk, error: OSError) -> HTTPException:
    return HTTPException(507, f"not saved: {desk.book.out}: {error.strerror or error}")


def _state(desk: Desk, supply: Supply, person: str) -> dict[str, Any]:
    """What the page shows next."""
    question, progress = desk.question(person), desk.progress(person)
    if question is not None:
        state, message = "ask", ""
    elif supply.failure:
        state, message = "failed", supply.failure
    elif supply.to_come():
        state, message = "wait", supply.doing
    else:
        state, message = "done", ""
    return {
        "state": state,
        "message": message,
        "question": question and _shown(question),
        "progress": progress._asdict(),
        "last": desk.last(person),
    }


def _shown(question: Question) -> dict[str, Any]:
    """A question as the page shows it, without anything that says where an answer comes from."""
    answers = (question.item.answers[place] for place in question.shown)
    return {
        "item": question.item.id,
        "round": question.round,
        "token": question.token,
        "prompt": [
            {"role": turn["role"], "html": to_html(turn["content"]), "text": turn["content"]}
            for turn in question.item.prompt
        ],
        "answers": [
            {"html": to_html(answer.text), "text": answer.text, "finished": answer.finished} for answer in answers
        ],
    }


def _before(choice: Choice) -> dict[str, Any]:
    """What a person had said about a question that is asked again."""
    return {"strength": choice.strength, "edited": choice.edited, "comment": choice.comment}
