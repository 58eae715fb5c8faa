"""Weights that arrive one by one become the files that transformers writes for a whole model."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models import export, exported_weights
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.precision import hold_in_fp32
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource

MakeSource = Callable[..., ModelSource]
EXPERTS = {
    "model_type": "mixtral",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "num_local_experts": 4,
}


def streamed(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields weights like those of a sharded model, whose memory is reused for the next one."""
    for name, weight in model.state_dict().items():
        lent = weight.clone()
        yield name, lent
        lent.zero_()


def test_a_stream_becomes_the_file_that_transformers_writes(
    source: ModelSource, make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model, renderer = make_causal_lm(source), Renderer(source.load_tokenizer())
    model.save_pretrained(tmp_path / "theirs")
    export_model(model, renderer, tmp_path / "whole", {})
    export_model(model, renderer, tmp_path / "streamed", {}, streamed(model))
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("theirs", "whole", "streamed")]
    assert files[0] == files[1] == files[2]
    for name in ("config.json", "generation_config.json", "lightning_rlhf.json"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "streamed" / name).read_text()


def test_the_stream_of_a_reward_model_has_its_bias_in_the_last_norm_too(
    source: ModelSource, make_scalar_model: Callable[..., ScalarModel], tmp_path: Path
) -> None:
    model, renderer = make_scalar_model(source), Renderer(source.load_tokenizer())
    export_model(model, renderer, tmp_path / "whole", {})
    export_model(model, renderer, tmp_path / "streamed", {}, streamed(model))
    for name in ("model.safetensors", "config.json", "lightning_rlhf.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes()


def test_a_stream_is_rounded_to_the_dtype_that_the_model_was_built_in(make_source: MakeSource, tmp_path: Path) -> None:
    source = replace(make_source("llama"), dtype="bfloat16")
    model = load_causal_lm(source)
    hold_in_fp32(model)
    export_model(model, Renderer(source.load_tokenizer()), tmp_path / "model", {}, streamed(model))
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert {weight.dtype for weight in written.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_bias_is_rounded_as_the_weights_are(make_source: MakeSource, tmp_path: Path) -> None:
    source = replace(make_source("llama"), dtype="bfloat16")
    model = load_scalar_model(source, "normal")
    hold_in_fp32(model)
    model.bias.data.fill_(0.3)
    export_model(model, Renderer(source.load_tokenizer()), tmp_path / "whole", {})
    export_model(model, Renderer(source.load_tokenizer()), tmp_path / "streamed", {}, streamed(model))
    for name in ("whole", "streamed"):
        # bfloat16 has 8 binary digits: 0.3 = 1.2 / 4, and 1.2 * 128 = 153.6 is rounded to 154.
        assert json.loads((tmp_path / name / "config.json").read_text())["score_bias"] == 154 / 128 / 4


def test_an_export_is_cut_into_files_of_a_largest_size(
    make_source: MakeSource, make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    source = make_source("gpt2")
    model = make_causal_lm(source)
    renderer = Renderer(source.load_tokenizer())
    folder = export_model(model, renderer, tmp_path / "model", {}, streamed(model), max_shard_bytes=30_000)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 3
    assert all(file.stat().st_size < 32_000 for file in files)
    read = load_causal_lm(source.trained(folder)).state_dict()
    assert all(weight.equal(read[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_have_the_names_of_their_family_s_files(dtype: str, tmp_path: Path) -> None:
    source = ModelSource(config=EXPERTS, tokenizer="pkg://lightning_rlhf.demo/tokenizer", dtype=dtype)
    model = load_causal_lm(source)
    hold_in_fp32(model)
    folder = export_model(model, Renderer(source.load_tokenizer()), tmp_path / "model", {}, streamed(model))
    # In memory, the experts of a layer are one tensor.
    names = load_file(folder / "model.safetensors").keys()
    wanted = {f"model.layers.{n}.block_sparse_moe.experts.{e}.w1.weight" for n in range(2) for e in range(4)}
    assert wanted <= names
    assert not wanted & model.state_dict().keys()


def test_lost_weights_in_a_stream_are_not_exported(
    make_source: MakeSource, make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    source = make_source("llama")
    model = make_causal_lm(source)
    model.lm_head.weight.data[3, 2] = torch.inf
    with pytest.raises(UserError, match=r"1 weights such as lm_head\.weight are not finite: nothing is written"):
        export_model(model, Renderer(source.load_tokenizer()), tmp_path / "model", {}, streamed(model))
    assert not list(tmp_path.iterdir())


def test_a_streamed_export_with_other_weights_than_those_that_came_is_an_error(
    make_source: MakeSource,
    make_causal_lm: Callable[..., PreTrainedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = make_source("llama")
    model, in_files = make_causal_lm(source), exported_weights.in_files

    def damaged(*arguments: Any) -> Any:
        for name, weight in in_files(*arguments):
            yield name, weight.flip(0) if name == "model.norm.weight" else weight

    model.model.norm.weight.data.uniform_()
    monkeypatch.setattr(export, "in_files", damaged)
    with pytest.raises(RuntimeError, match=r"has 1 other weights than were written, such as model\.norm\.weight"):
        export_model(model, Renderer(source.load_tokenizer()), tmp_path / "model", {}, streamed(model))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}, {"adapter": Lora()}])
def test_an_export_keeps_the_generation_settings_of_a_pretrained_model(
    changes: dict[str, Any], make_source: MakeSource, tmp_path: Path
) -> None:
    source = make_source("llama")
    source.load_tokenizer().save_pretrained(tmp_path / "start")
    model = load_causal_lm(source)
    model.generation_config.update(do_sample=True, temperature=0.6)
    model.save_pretrained(tmp_path / "start")
    again = replace(source.trained(tmp_path / "start"), **changes)
    model = load_causal_lm(again)
    hold_in_fp32(model)
    folder = export_model(model, Renderer(again.load_tokenizer()), tmp_path / "model", {})
    settings = json.loads((folder / "generation_config.json").read_text())
    assert (settings["do_sample"], settings["temperature"], settings["eos_token_id"]) == (True, 0.6, 3)
