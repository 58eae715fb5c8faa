"""A pretrained model uses its own tokenizer, whatever architecture the configuration also names."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from meta_llama import LLAMA_3, write_checkpoint
from transformers import AutoTokenizer

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource

WALKS, DEMO = "pkg://lightning_rlhf.randomwalks/tokenizer", "pkg://lightning_rlhf.demo/tokenizer"
# Sizes of their vocabularies.
NUM_WALKS, NUM_DEMO = 98, 814


def composed(*overrides: str) -> ModelSource:
    """Returns the source that the command line would build."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return instantiate(compose("train", ["experiment=none", *overrides]).model, _convert_="all")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder with the tokenizer of the random walks, which is so small that every model could read its ids."""
    tokenizer = ModelSource(config={}, config_tokenizer=WALKS).load_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == NUM_WALKS
    return str(tmp_path)


@pytest.mark.parametrize(
    "model",
    ["demo", "tiny", "randomwalks", "base", "gpt2/small", "llama/7b", "llama3/1b", "qwen3/0.6b", "smollm2/135m"],
)
def test_a_pretrained_folder_brings_its_tokenizer(model: str, folder: str) -> None:
    assert len(composed(f"model={model}", f"model.pretrained={folder}").load_tokenizer()) == NUM_WALKS
    # This holds unless another tokenizer is named.
    named = composed(f"model={model}", f"model.pretrained={folder}", f"model.tokenizer={DEMO}")
    assert len(named.load_tokenizer()) == NUM_DEMO


def test_a_net_that_is_built_reads_with_the_tokenizer_of_its_architecture() -> None:
    assert len(composed("model=demo").load_tokenizer()) == NUM_DEMO
    assert len(composed("model=demo", f"model.tokenizer={WALKS}").load_tokenizer()) == NUM_WALKS
    gpt2 = composed("model=gpt2/small", "model.pretrained=null")
    assert gpt2.config_tokenizer == "openai-community/gpt2"
    with pytest.raises(UserError, match=r"^model\.config_tokenizer=openai-community/gpt2: "):
        gpt2.load_tokenizer()


def test_metas_folder_and_an_export_bring_theirs(folder: str, tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    write_checkpoint(tmp_path / "meta", LLAMA_3)
    # There are 264 tokens and 256 special ones.
    assert len(composed("model=llama/7b", f"model.meta_dir={tmp_path / 'meta'}").load_tokenizer()) == 520
    named = composed("model=demo", f"model.tokenizer={DEMO}")
    assert len(named.trained(folder).load_tokenizer()) == NUM_WALKS


def test_a_net_that_is_built_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.tokenizer is not set"):
        ModelSource(config={"model_type": "llama"})
