"""Shows in which words texts differ."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape

# Words, and other characters one by one. Chinese and Japanese have no spaces between words.
_WORDS = re.compile(r"[\u2e80-\u9fff]|[^\W\u2e80-\u9fff]+|[^\w\s]")
# Comparing words one by one takes time in proportion to the product of the lengths.
_EXACT = 2000


def differences(texts: Sequence[str]) -> list[str]:
    """Marks the words of each text that another one does not have in the same place.

    The first text is compared with the second, and each other text with the first. Space does not count.

    Args:
        texts: At least two texts.

    Returns:
        HTML for each text: the escaped text, in which `<mark>` encloses what differs.
    """
    return [_marked(own, texts[1] if number == 0 else texts[0]) for number, own in enumerate(texts)]


def _marked(own: str, other: str) -> str:
    places = [word.span() for word in _WORDS.finditer(own)]
    words, others = _WORDS.findall(own), _WORDS.findall(other)
    matcher = SequenceMatcher(None, others, words, autojunk=max(len(words), len(others)) > _EXACT)
    parts, done = [], 0
    for kind, _, _, begin, end in matcher.get_opcodes():
        if kind != "equal" and begin < end:
            first, last = places[begin][0], places[end - 1][1]
            parts += [escape(own[done:first]), "<mark>", escape(own[first:last]), "</mark>"]
            done = last
    return "".join([*parts, escape(own[done:])])
