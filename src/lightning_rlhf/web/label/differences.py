"""Shows in which words texts differ."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape

# Words, single other characters, and the space between them.
_PIECES = re.compile(r"\w+|\s+|[^\w\s]")
# Comparing pieces one by one takes time in proportion to the product of the lengths.
_EXACT = 2000


def differences(texts: Sequence[str]) -> list[str]:
    """Marks the words of each text that another one does not have in the same place.

    The first text is compared with the second, and each other text with the first.

    Args:
        texts: At least two texts.

    Returns:
        HTML for each text: the escaped text, in which `<mark>` encloses what differs.
    """
    pieces = [_PIECES.findall(text) for text in texts]
    return [_marked(own, pieces[1] if number == 0 else pieces[0]) for number, own in enumerate(pieces)]


def _marked(own: list[str], other: list[str]) -> str:
    matcher = SequenceMatcher(None, other, own, autojunk=max(len(own), len(other)) > _EXACT)
    parts = []
    for kind, _, _, begin, end in matcher.get_opcodes():
        text = escape("".join(own[begin:end]))
        parts.append(text if kind == "equal" or not text else f"<mark>{text}</mark>")
    return "".join(parts)
