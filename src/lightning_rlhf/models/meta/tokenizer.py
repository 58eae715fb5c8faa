"""The tokenizers of Meta's LLaMA folders: SentencePiece up to Llama 2, a tiktoken file from Llama 3 on."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from lightning_rlhf.errors import UserError, require

_NUM_SPECIAL = 256
_NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
_NAMED_SINCE_3_1 = {4: "finetune_right_pad_id", 8: "eom_id", 10: "python_tag"}


@dataclass(frozen=True)
class MetaTokenizer:
    """What a tokenizer file holds."""

    file: Path
    size: int
    bos_id: int
    eos_ids: list[int]
    """All that Meta's code ends an answer at."""
    build: Callable[[], PreTrainedTokenizerFast]
    """Converts it, which takes seconds for 128 thousand tokens."""
    pieces: Any = None
    """SentencePiece's own processor of the file, which says what ids are right; None for a tiktoken file."""


def read_tokenizer(folder: Path, setting: str, since_3_1: bool) -> MetaTokenizer:
    """Reads `tokenizer.model`, which lies beside the weights, or beside the folders of several sizes.

    Args:
        folder: Of the checkpoint.
        setting: What messages call it.
        since_3_1: Whether the special tokens are those of Llama 3.1; else those of Llama 3. Of no account before.

    Raises:
        UserError: If there is none, or it is neither a SentencePiece model nor a tiktoken file.
    """
    places = [folder / "tokenizer.model", folder.absolute().parent / "tokenizer.model"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(
            f"{setting}={folder}: there is no tokenizer.model, neither in it nor in its parent; put it there"
        )
    ranks = _tiktoken_ranks(file)
    if ranks is None:
        return _sentencepiece(file, setting)
    names, start = special_tokens(since_3_1), len(ranks)
    stops = [start + n for n, name in enumerate(names) if name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    build = partial(_from_tiktoken, ranks, names)
    return MetaTokenizer(file, start + len(names), start, stops, build)


def special_tokens(since_3_1: bool) -> list[str]:
    """Names of the special tokens of Llama 3, in the order of their ids, as Hugging Face's copies have them."""
    named = _NAMED | (_NAMED_SINCE_3_1 if since_3_1 else {})
    reserved = iter(range(_NUM_SPECIAL))
    return [
        f"<|{named[n] if n in named else f'reserved_special_token_{next(reserved)}'}|>" for n in range(_NUM_SPECIAL)
    ]


def _tiktoken_ranks(file: Path) -> dict[bytes, int] | None:
    """Tokens and their ids from a file of lines `BASE64 ID`; None if it is no such file."""
    try:
        pairs = [line.split() for line in file.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (binascii.Error, ValueError):
        return None
    return ranks if ranks and sorted(ranks.values()) == list(range(len(pairs))) else None


class _RanksConverter(TikTokenConverter):
    """Converts ranks that are read already."""

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        super().__init__(vocab_file="")
        self._ranks = ranks

    def load_tiktoken_bpe(self, tiktoken_url: str) -> Any:  # type: ignore[override]
        return self._ranks


def _from_tiktoken(ranks: Mapping[bytes, int], names: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that gives Llama 3's ids, and puts BOS in front as it does."""
    tokenizer = _RanksConverter(ranks).converted()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    bos = (names[0], len(ranks))
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), _bos_first(bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=names[0], eos_token=names[1], clean_up_tokenization_spaces=False
    )


def _sentencepiece(file: Path, setting: str) -> MetaTokenizer:
    require("sentencepiece", "llama", f"{setting}: {file.name} of LLaMA 1 and 2")
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{setting}: {file} is neither a SentencePiece model nor a tiktoken file; is it complete? Get it again"
        ) from error
    build = partial(_from_sentencepiece, pieces)
    return MetaTokenizer(file, pieces.vocab_size(), pieces.bos_id(), [pieces.eos_id()], build, pieces)


def _from_sentencepiece(pieces: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that gives the ids of a SentencePiece BPE model, and puts BOS in front as LLaMA's does.

    A space goes in front of every text, also of one that begins with a space: transformers' own `LlamaTokenizer` would
    leave it out there. So this one is a plain tokenizer of no named class, which is loaded as it was saved.
    """
    names = [pieces.id_to_piece(i) for i in range(pieces.vocab_size())]
    apart = (pieces.is_control, pieces.is_byte, pieces.is_unknown)
    scores = {name: pieces.get_score(i) for i, name in enumerate(names) if not any(kind(i) for kind in apart)}
    unk, bos, eos = (names[i] for i in (pieces.unk_id(), pieces.bos_id(), pieces.eos_id()))
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(BPE(ids, _merges(scores), unk_token=unk, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = _bos_first((bos, pieces.bos_id()))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unk, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Pairs of pieces that make a piece, the best first: SentencePiece keeps the pieces alone, and merges by score."""
    return [
        (name[:cut], name[cut:])
        for name in sorted(scores, key=lambda name: -scores[name])
        for cut in range(1, len(name))
        if name[:cut] in scores and name[cut:] in scores
    ]


def _bos_first(bos: tuple[str, int]) -> Any:
    """Puts BOS in front of a text."""
    name = bos[0]
    return processors.TemplateProcessing(
        single=f"{name}:0 $A:0", pair=f"{name}:0 $A:0 {name}:1 $B:1", special_tokens=[bos]
    )
