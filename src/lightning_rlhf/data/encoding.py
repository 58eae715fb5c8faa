"""Encodes many texts at a time, each cut into pieces; the ids are those that a tokenizer makes of the whole text."""

import re
from collections.abc import Collection, Generator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUT = "\ufdd0"
"""Marks a further cut within a piece. It is a Unicode noncharacter, reserved for use inside programs, so texts do not
contain it."""

_Ids = list[int]


def control_tokens(tokenizer: "PreTrainedTokenizerBase", stop_ids: Collection[int]) -> re.Pattern[str]:
    """Returns a pattern of the control tokens that can be split, which are those of two or more characters."""
    added = tokenizer.added_tokens_decoder.items()
    texts = {token.content for number, token in added if token.special or number in stop_ids}
    longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def as_text(value: Any, control: re.Pattern[str]) -> Any:
    """Splits the control tokens in all texts of a value, so that they become the tokens of their characters."""
    if isinstance(value, str):
        return control.sub(lambda found: found[0][0] + CUT + found[0][1:], value)
    if isinstance(value, list):
        return [as_text(item, control) for item in value]
    if isinstance(value, dict):
        return {key: as_text(item, control) for key, item in value.items()}
    return value


class PieceEncoder:
    """Encodes the pieces of texts one after the other.

    Attributes:
        anchor: Text to put in front of a piece, so that the piece is encoded as within a longer text; may be empty.
        anchor_ids: The ids of the anchor.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Tests whether the tokenizer treats the beginning of a text differently from the rest."""
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        self.anchor, self.anchor_ids = "", list[int]()
        alone, apart, behind = self._encode(["\na", "\n", "a"])
        if alone != apart + behind:
            self.anchor, self.anchor_ids = "\n", apart

    def encode(self, texts: Sequence[Sequence[str]]) -> list[list[_Ids]]:
        """Encodes texts.

        Args:
            texts: The pieces of each text.

        Returns:
            For each text, the ids of each piece.
        """
        found: list[list[_Ids]] = [[] for _ in texts]
        running = {number: self._pieces(pieces, found[number]) for number, pieces in enumerate(texts)}
        asked = {number: next(steps) for number, steps in running.items() if texts[number]}
        # Each text requests one encoding at a time, since the next request may depend on the result. Equal requests are
        # encoded once.
        while asked:
            wanted = list(dict.fromkeys(asked.values()))
            known = dict(zip(wanted, self._encode(wanted), strict=True))
            further = {}
            for number, text in asked.items():
                try:
                    further[number] = running[number].send(known[text])
                except StopIteration:
                    continue
            asked = further
        return found

    def _pieces(self, pieces: Sequence[str], found: list[_Ids]) -> Generator[str, _Ids, None]:
        last: int | None = None
        for piece in pieces:
            ids: _Ids = []
            for part in piece.split(CUT):
                ids += yield from self._behind(last, part)
                last = ids[-1] if ids else last
            found.append(ids)

    def _behind(self, last: int | None, text: str) -> Generator[str, _Ids, _Ids]:
        """Encodes a text as a part of a longer text.

        Tokenizers with "▁" put this character in front of a text, and most of them also after each control token.

        Args:
            last: The token in front of the text; None if the text is at the beginning.
            text: The text to encode.
        """
        if last is None:
            return (yield text)
        before = (self._added[last], [last]) if last in self._added else (self.anchor, self.anchor_ids)
        ids = yield before[0] + text
        start = len(before[1])
        return ids[start:] if ids[:start] == before[1] else (yield text)

    def _encode(self, texts: list[str]) -> list[_Ids]:
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return encoded["input_ids"]
