"""Converted tokenizers give the ids of the libraries that the files belong to."""

from pathlib import Path
from typing import Any

import pytest
import tiktoken
from meta_llama import TEXTS, tiktoken_ranks, write_sentencepiece, write_tiktoken
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.meta.tokenizer import read_tokenizer, special_tokens

PROSE = (Path(__file__).parents[4] / "CONTRIBUTING.md").read_text(encoding="utf-8")
# The pattern by which Llama 3 splits texts before it merges (Meta's tokenizer.py).
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Writes files of both kinds, each in a folder of its own."""
    made = {name: tmp_path_factory.mktemp("one") / name for name in ("sentencepiece", "tiktoken")}
    for name, write in [("sentencepiece", write_sentencepiece), ("tiktoken", write_tiktoken)]:
        made[name].mkdir()
        write(made[name])
    return made


def reloaded(folder: Path) -> Any:
    """Returns the tokenizer that a user gets who loads the converted folder."""
    read_tokenizer(folder, "input_dir", True).build().save_pretrained(folder / "out")
    # The folder also has a model's configuration, in which transformers looks for the class of the tokenizer.
    (folder / "out" / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(folder / "out")


def test_ids_are_those_of_sentencepiece(folders: dict[str, Path]) -> None:
    tokenizer = reloaded(folders["sentencepiece"])
    reference = SentencePieceProcessor(model_file=str(folders["sentencepiece"] / "tokenizer.model"))
    texts = [text.replace("<s>", "s") for text in TEXTS]
    for text in [*texts, *PROSE.split("\n\n")]:
        assert tokenizer(text).input_ids == [reference.bos_id(), *reference.encode(text)], text
    assert len(tokenizer) == reference.vocab_size()


def test_ids_are_those_of_tiktoken(folders: dict[str, Path]) -> None:
    tokenizer = reloaded(folders["tiktoken"])
    ranks = {token: rank for token, rank in tiktoken_ranks().items() if rank < 264}
    special = {name: 264 + n for n, name in enumerate(special_tokens(True))}
    reference = tiktoken.Encoding("llama", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    for text in [*TEXTS, *PROSE.split("\n\n")]:
        assert tokenizer(text).input_ids == [264, *reference.encode(text, allowed_special="all")], text
    assert len(tokenizer) == 264 + 256


@pytest.mark.parametrize("kind", ["sentencepiece", "tiktoken"])
def test_texts_come_back_from_their_ids(kind: str, folders: dict[str, Path]) -> None:
    tokenizer = reloaded(folders[kind])
    for text in TEXTS[:-1]:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_control_tokens_of_llama_1_have_their_ids(folders: dict[str, Path]) -> None:
    tokenizer = reloaded(folders["sentencepiece"])
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("a</s>").input_ids[-1] == 2


@pytest.mark.parametrize(
    ("since_3_1", "ids"),
    [
        (False, {"reserved_special_token_4": 8, "eot_id": 9, "reserved_special_token_250": 255}),
        (True, {"finetune_right_pad_id": 4, "eom_id": 8, "python_tag": 10, "reserved_special_token_247": 255}),
    ],
)
def test_special_tokens_are_named_as_in_the_published_copies(since_3_1: bool, ids: dict[str, int]) -> None:
    names = special_tokens(since_3_1)
    assert len(set(names)) == 256
    both = {"begin_of_text": 0, "end_of_text": 1, "start_header_id": 6, "end_header_id": 7, "eot_id": 9}
    assert {name: names.index(f"<|{name}|>") for name in both | ids} == both | ids


@pytest.mark.parametrize("content", [b"", b"aGk= 0\naGk= 1\n", b"aGk= 1\n", b"no base64! 0\n"])
def test_what_is_no_tokenizer_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match="neither a SentencePiece model nor a tiktoken file"):
        read_tokenizer(tmp_path, "input_dir", True)
