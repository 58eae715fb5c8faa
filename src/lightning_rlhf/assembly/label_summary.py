"""Says in the terminal what a file of labels holds, and what to do with it."""

from pathlib import Path

from lightning_rlhf.data.verdicts import REPEAT
from lightning_rlhf.web.label.agreement import agreements, team_agreement, wins
from lightning_rlhf.web.label.book import Book
from lightning_rlhf.web.label.items import BLIND

# How one choice is counted, and how several are.
_WORDS = {
    "better": ("better", "better"),
    "tie": ("tie", "ties"),
    "both_bad": ("all bad", "all bad"),
    "skip": ("skipped", "skipped"),
    REPEAT: ("repeat", "repeats"),
}


def summary(book: Book) -> str:
    """Counts choices and people, such as `labels.jsonl has 3 choices of 1 person (2 better, 1 tie)`."""
    choices, people = list(book.choices.values()), list(book.people())
    if not choices:
        return f"{book.out} has no choices yet"
    verdicts = [REPEAT if choice.round else choice.verdict for choice in choices]
    counts = {verdict: verdicts.count(verdict) for verdict in _WORDS}
    told = ", ".join(f"{count} {_WORDS[verdict][count > 1]}" for verdict, count in counts.items() if count)
    return (
        f"{book.out} has {len(choices)} choice{'s'[: len(choices) > 1]} of {len(people)} "
        f"{'people' if len(people) > 1 else 'person'} ({told})"
    )


def next_steps(book: Book, pairs: str | None) -> list[str]:
    """Lists what the labels say about models and people, and the commands that use them.

    Args:
        book: The labels.
        pairs: The file of pairs that people were asked about. If they are those of an evaluation, labels are verdicts
            on its two models, and nothing to learn from.
    """
    lines = [
        f"  {source} was better {count} times" for source, count in wins(book.choices.values(), book.items).items()
    ]
    for (one, other), shared, agreed, kappa in agreements(book.people(), book.items):
        lines.append(_agreeing(f"{one} and {other}", shared, agreed, kappa, "Cohen's"))
    if (team := team_agreement(book.people())) is not None:
        lines.append(_agreeing("all", *team, "Fleiss'"))
    asked = {choice.item for choice in book.choices.values()} & book.items.keys()
    if pairs is not None and any(book.items[item].answers[0].source == BLIND for item in asked):
        folder = Path(pairs).parent
        return [*lines, f"see what it means: lightning-rlhf evaluate answers={folder} labels={book.out}"]
    if any(choice.best is not None and not choice.round for choice in book.choices.values()):
        lines.append(f"train on it: lightning-rlhf train experiment=none stage=reward data=files data.path={book.out}")
    if book.edited_file.exists() and book.edited_file.stat().st_size:
        lines.append(
            f"and on edited answers: lightning-rlhf train experiment=none stage=sft data=files "
            f"data.path={book.edited_file}"
        )
    return lines


def _agreeing(who: str, shared: int, agreed: int, kappa: float | None, whose: str) -> str:
    known = "" if kappa is None else f" ({whose} kappa {kappa:.2f})"
    return f"  {who} agree on {agreed} of {shared} items{known}"
