"""What is loaded is whole, and what cannot be loaded is one message that says why."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters import Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import HeadInit, ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource

MakeSource = Callable[..., ModelSource]
MakeCausalLM = Callable[..., PreTrainedModel]
FINAL_NORM = {
    "gpt2": "transformer.ln_f.weight",
    "llama": "model.norm.weight",
    "opt": "model.decoder.final_layer_norm.weight",
    "bloom": "transformer.ln_f.weight",
    "gptj": "transformer.ln_f.weight",
    "gpt_neox": "gpt_neox.final_layer_norm.weight",
}


def lose(folder: Path, name: str) -> None:
    """Takes a weight out of a folder, whether or not its names begin with that of the backbone."""
    tensors = load_file(folder / "model.safetensors")
    (found,) = (key for key in tensors if name.endswith(key))
    del tensors[found]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_language_model_of_which_a_weight_is_missing_is_refused(
    source: ModelSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    net = make_causal_lm(source)
    net.save_pretrained(tmp_path)
    # Tied or not, a folder that was written is whole.
    loaded = load_causal_lm(source.trained(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), net.parameters(), strict=True))
    name = FINAL_NORM[net.config.model_type]
    lose(tmp_path, name)
    with pytest.raises(UserError, match=rf"^model\.pretrained={tmp_path}: 1 weights of .* would be random: {name}; it"):
        load_causal_lm(source.trained(tmp_path))


def test_a_folder_whose_weights_are_of_another_architecture_is_refused_with_some_names(
    make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    make_causal_lm(make_source("gpt2")).save_pretrained(tmp_path)
    other = make_source("llama").hf_config()
    other.save_pretrained(tmp_path)
    # Two layers of nine weights, the last norm, the embedding and the output.
    with pytest.raises(
        UserError, match=r"21 weights .* random: \S+, \S+, \S+ and 18 more; it is a net of another kind"
    ):
        load_causal_lm(ModelSource(pretrained=str(tmp_path)))


def test_a_reward_model_is_no_language_model_where_its_output_is_a_weight_of_its_own(
    make_source: MakeSource, make_scalar_model: Callable[..., ScalarModel], tmp_path: Path
) -> None:
    source = make_source("llama")
    export_model(make_scalar_model(source), source.load_tokenizer(), tmp_path / "reward", {})
    with pytest.raises(UserError, match=r"would be random: lm_head\.weight"):
        load_causal_lm(source.trained(tmp_path / "reward"))


@pytest.mark.parametrize("head", ["normal", "zero"])
def test_a_new_head_may_be_missing_and_nothing_else(
    head: HeadInit, source: ModelSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    net = make_causal_lm(source)
    net.save_pretrained(tmp_path)
    load_scalar_model(source.trained(tmp_path), head)
    name = FINAL_NORM[net.config.model_type]
    lose(tmp_path, name)
    with pytest.raises(UserError, match=rf"1 weights of .* would be random: {name}; it"):
        load_scalar_model(source.trained(tmp_path), head)


def test_a_new_adapter_is_not_missing(make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path) -> None:
    source = make_source("llama")
    make_causal_lm(source).save_pretrained(tmp_path)
    adapted = replace(source.trained(tmp_path), adapter=Lora())
    assert any("lora_" in name for name, _ in load_causal_lm(adapted).named_parameters())
    lose(tmp_path, "model.norm.weight")
    with pytest.raises(UserError, match=r"would be random: model\.norm\.weight"):
        load_causal_lm(adapted)
