"""The tokenizers of Meta's LLaMA folders: SentencePiece models up to Llama 2, and tiktoken files since Llama 3."""

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
    """The content of a tokenizer file."""

    file: Path
    size: int
    bos_id: int
    eos_ids: list[int]
    """All tokens that end an answer in Meta's code."""
    build: Callable[[], PreTrainedTokenizerFast]
    """Converts the tokenizer, which takes seconds for 128 thousand tokens."""
    pieces: Any = None
    """SentencePiece's own processor of the file, whose ids are the reference; None for a tiktoken file."""


def read_tokenizer(folder: Path, setting: str, since_3_1: bool) -> MetaTokenizer:
    """Reads `tokenizer.model`, which lies beside the weights or one folder above them, shared by several sizes.

    Args:
        folder: The folder of the checkpoint.
        setting: Name of the setting that gives the folder, for messages.
        since_3_1: Whether the special tokens are those of Llama 3.1 rather than Llama 3; ignored for SentencePiece.

    Raises:
        UserError: If there is no such file, or it is neither a SentencePiece model nor a tiktoken file.
    """
    places = [folder / "tokenizer.model", folder.absolute().parent / "tokenizer.model"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(
            f"{setting}={folder}: there is no tokenizer.model in this folder or in its parent; put it there"
        )
    ranks = _tiktoken_ranks(file)
    if ranks is None:
        return _sentencepiece(file, setting)
    names, start = special_tokens(since_3_1), len(ranks)
    stops = [start + n for n, name in enumerate(names) if name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    build = partial(_from_tiktoken, ranks, names)
    return MetaTokenizer(file, start + len(names), start, stops, build)


def special_tokens(since_3_1: bool) -> list[str]:
    """Returns the special tokens of Llama 3 in the order of their ids, by the names in Hugging Face's copies."""
    named = _NAMED | (_NAMED_SINCE_3_1 if since_3_1 else {})
    reserved = iter(range(_NUM_SPECIAL))
    return [
        f"<|{named[n] if n in named else f'reserved_special_token_{next(reserved)}'}|>" for n in range(_NUM_SPECIAL)
    ]


def _tiktoken_ranks(file: Path) -> dict[bytes, int] | None:
    """Reads tokens and their ids from a file of lines `BASE64 ID`; returns None for a file of another format."""
    try:
        pairs = [line.split() for line in file.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (binascii.Error, ValueError):
        return None
    return ranks if ranks and sorted(ranks.values()) == list(range(len(pairs))) else None


class _RanksConverter(TikTokenConverter):
    """Converts ranks that have been read already, where transformers would read a file."""

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        super().__init__(vocab_file="")
        self._ranks = ranks

    def load_tiktoken_bpe(self, tiktoken_url: str) -> Any:  # type: ignore[override]
        return self._ranks


def _from_tiktoken(ranks: Mapping[bytes, int], names: list[str]) -> PreTrainedTokenizerFast:
    """Builds a tokenizer that gives the ids of Llama 3, with BOS at the start."""
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
            f"{setting}: {file} is neither a SentencePiece model nor a tiktoken file; it may be incomplete: download "
            "it again"
        ) from error
    build = partial(_from_sentencepiece, pieces)
    return MetaTokenizer(file, pieces.vocab_size(), pieces.bos_id(), [pieces.eos_id()], build, pieces)


def _from_sentencepiece(pieces: Any) -> PreTrainedTokenizerFast:
    """Builds a tokenizer that gives the ids of a SentencePiece BPE model, with BOS at the start as in LLaMA.

    Every text gets a space in front, even if it begins with a space. `LlamaTokenizer` of transformers would leave that
    space out, so this is a plain tokenizer of no named class, which is loaded as it was saved.
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
    """Derives the merges, best first. SentencePiece saves only the pieces, and merges the pair of the best score."""
    return [
        (name[:cut], name[cut:])
        for name in sorted(scores, key=lambda name: -scores[name])
        for cut in range(1, len(name))
        if name[:cut] in scores and name[cut:] in scores
    ]


def _bos_first(bos: tuple[str, int]) -> Any:
    """Returns the post-processor that puts BOS in front of a text."""
    name = bos[0]
    return processors.TemplateProcessing(
        single=f"{name}:0 $A:0", pair=f"{name}:0 $A:0 {name}:1 $B:1", special_tokens=[bos]
    )
