"""Items, choices and a desk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.web.label.book import Book
from lightning_rlhf.web.label.choices import Choice
from lightning_rlhf.web.label.desk import Desk
from lightning_rlhf.web.label.items import Answer, Item
from lightning_rlhf.web.label.questions import Question, Said


@pytest.fixture
def make_item() -> Callable[..., Item]:
    """Makes an item whose answers name it."""

    def make(name: int, count: int = 2, **settings: Any) -> Item:
        answers = tuple(Answer(f"answer {place} to {name}", f"model {place}") for place in range(count))
        prompt = [{"role": "user", "content": f"question {name}"}]
        return Item(**({"id": f"item{name}", "prompt": prompt, "answers": answers, "place": f"p:{name}"} | settings))

    return make


@pytest.fixture
def make_choice() -> Callable[..., Choice]:
    """Makes a choice of the first answer."""

    def make(item: str, person: str = "ann", **settings: Any) -> Choice:
        usual: dict[str, Any] = {
            "id": f"{person} on {item}",
            "round": 0,
            "verdict": "better",
            "best": 0,
            "shown": (0, 1),
            "seconds": 1.5,
            "time": "2026-01-01T12:00:00.000+00:00",
        }
        return Choice(item=item, person=person, **(usual | settings))

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "labels.jsonl"


@pytest.fixture
def make_desk(out: Path, make_item: Callable[..., Item]) -> Any:
    """Opens a desk with items as a server does; each desk takes the place of the one before."""
    books: list[Book] = []

    def make(num_items: int = 5, count: int = 2, **settings: Any) -> Desk:
        for book in books:
            book.close()
        books.append(Book(out))
        desk = Desk(books[-1], **({"shared": 0.0, "repeats": 0.0} | settings))
        for name in range(num_items):
            desk.add(make_item(name, count))
        return desk

    yield make
    for book in books:
        book.close()


@pytest.fixture
def say() -> Callable[..., Question]:
    """Answers the question of a person, and returns it."""

    def answer(desk: Desk, person: str = "ann", verdict: Any = "better", pick: int | None = 0, **more: Any) -> Question:
        question = desk.question(person)
        assert question is not None
        said = Said(verdict, pick if verdict == "better" else None, **more)
        desk.answer(person, question.item.id, question.round, said)
        return question

    return answer
