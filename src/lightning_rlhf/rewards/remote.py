"""How sources of scores that wait for other machines are asked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Remote:
    """Says that a source may be asked about a few responses at a time, in any order, and by several threads at once.

    A function has it as its attribute `remote`. Its score of a response must not depend on the others in the call.

    Attributes:
        calls: Number of calls at a time.
        rows: Largest number of responses in a call.

    Example:
        >>> def score(prompts, responses): ...
        >>> score.remote = Remote(calls=4, rows=16)
    """

    calls: int
    rows: int


def remote_of(source: object) -> Remote | None:
    """Returns what a function or a reward says of itself; None if it is asked about one batch after the other."""
    found = getattr(source, "remote", None)
    return found if isinstance(found, Remote) else None
