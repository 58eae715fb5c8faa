"""Token ids of many texts at a time that come cut into pieces: those that a tokenizer makes of each whole."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUT = "\ufdd0"
"""Where a piece is cut once more. A Unicode noncharacter, reserved for use inside programs: texts do not hold it."""

_Ids = list[int]


class PieceEncoder:
    """Encodes pieces one behind the other.

    Attributes:
        anchor: A text to put in front of a piece, so that it is encoded as within a longer text; may be empty.
        anchor_ids: Its ids.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Finds out whether the tokenizer treats the beginning of a text in its own way."""
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        self.anchor, self.anchor_ids = "", list[int]()
        alone, apart, behind = self._encode(["\na", "\n", "a"])
        if alone != apart + behind:
            self.anchor, self.anchor_ids = "\n", apart

    def encode(self, texts: Sequence[Sequence[str]]) -> list[list[_Ids]]:
        """Encodes texts.

        Args:
            texts: Each as its pieces.

        Returns:
            For each text the ids of each piece.
        """
        found: list[list[_Ids]] = [[] for _ in texts]
        running = {number: self._pieces(pieces, found[number]) for number, pieces in enumerate(texts)}
        asked = {number: next(steps) for number, steps in running.items() if texts[number]}
        # Each text asks for one encoding at a time, since the next may depend on it; equal ones are made once.
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
        """Encodes text as it would be as a part of a longer one.

        Tokenizers with "▁" put one in front of a text, and most of them in front of what follows a control token too.

        Args:
            last: The token in front of the text; None if the text is the first.
            text: What follows.
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
