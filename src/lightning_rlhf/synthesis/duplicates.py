"""Finds texts that are equal or nearly equal to an earlier one."""

import re
from typing import Literal

from lightning_rlhf.errors import UserError, require

_SHINGLE = 3
"""Number of consecutive words that are compared as one."""
_PERMUTATIONS = 128
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A word, or a character of a script that puts no space between words."""


class Duplicates:
    """Remembers texts, and says of each new one whether it repeats an earlier one.

    Two texts are equal if their words are, regardless of case and punctuation. They are nearly equal if the Jaccard
    similarity of their sets of three consecutive words is at least a threshold; MinHash estimates it with a standard
    error of at most 0.05 (Broder, "On the resemblance and containment of documents", 1997).
    """

    def __init__(self, similarity: float | None) -> None:
        """Starts with no texts.

        Args:
            similarity: The threshold, above 0 and at most 1; None finds equal texts only.

        Raises:
            UserError: If the threshold is out of range, or datasketch is not installed.
        """
        if similarity is not None and not 0 < similarity <= 1:
            raise UserError(f"near_duplicates={similarity}: must lie in (0, 1]; null keeps texts that are nearly equal")
        self._seen: set[tuple[str, ...]] = set()
        self.similarity = similarity
        if similarity is not None:
            require("datasketch", "langchain", "near_duplicates")
            from datasketch import MinHash, MinHashLSH

            self._index = MinHashLSH(threshold=similarity, num_perm=_PERMUTATIONS)
            self._sketches: list[MinHash] = []

    def kind(self, text: str) -> Literal["equal", "nearly equal"] | None:
        """Says how a text repeats an earlier one; one that repeats none is remembered."""
        words = tuple(_WORD.findall(text.lower()))
        if words in self._seen:
            return "equal"
        if self.similarity is not None and self._repeats(words):
            return "nearly equal"
        self._seen.add(words)
        return None

    def _repeats(self, words: tuple[str, ...]) -> bool:
        from datasketch import MinHash

        sketch = MinHash(num_perm=_PERMUTATIONS)
        shingles = {" ".join(words[start : start + _SHINGLE]) for start in range(max(len(words) - _SHINGLE + 1, 1))}
        sketch.update_batch([shingle.encode() for shingle in shingles])
        assert self.similarity is not None
        # The index also returns texts somewhat below the threshold.
        near = any(sketch.jaccard(self._sketches[found]) >= self.similarity for found in self._index.query(sketch))
        if not near:
            self._index.insert(len(self._sketches), sketch)
            self._sketches.append(sketch)
        return near
