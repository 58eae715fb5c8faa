"""A loaded model is complete, and a model that cannot be loaded gives one message that says why."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.export_check import said
from lightning_rlhf.models.rebuilding import empty_net, rebuilt
from lightning_rlhf.models.scalar import HeadInit, ScalarModel, load_reward_model, load_scalar_model
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
    """Removes a weight from a folder, whether or not its names begin with that of the backbone."""
    tensors = load_file(folder / "model.safetensors")
    (found,) = (key for key in tensors if name.endswith(key))
    del tensors[found]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_language_model_of_which_a_weight_is_missing_is_refused(
    source: ModelSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    net = make_causal_lm(source)
    net.save_pretrained(tmp_path)
    # A folder that was written is complete, whether or not the output is tied.
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
    # The model has two layers of nine weights, the last norm, the embedding and the output.
    with pytest.raises(
        UserError, match=r"21 weights .* random: \S+, \S+, \S+ and 18 more; it is a model of another kind"
    ):
        load_causal_lm(ModelSource(pretrained=str(tmp_path)))


def test_a_reward_model_is_no_language_model_where_its_output_is_a_weight_of_its_own(
    make_source: MakeSource, make_scalar_model: Callable[..., ScalarModel], tmp_path: Path
) -> None:
    source = make_source("llama")
    export_model(make_scalar_model(source), Renderer(source.load_tokenizer()), tmp_path / "reward", {})
    with pytest.raises(UserError, match=r"would be random: lm_head\.weight"):
        load_causal_lm(source.trained(tmp_path / "reward"))


def test_a_reward_model_is_no_language_model_where_its_output_is_the_embedding(
    make_source: MakeSource, make_scalar_model: Callable[..., ScalarModel], tmp_path: Path
) -> None:
    source = make_source("gpt2")
    export_model(make_scalar_model(source), Renderer(source.load_tokenizer()), tmp_path / "reward", {})
    with pytest.raises(UserError, match=r"has no place for 1 weights in its files: score\.weight; "):
        load_causal_lm(source.trained(tmp_path / "reward"))


def shorten(folder: Path) -> None:
    """Changes the configuration of a model of two layers to one layer."""
    said = json.loads((folder / "config.json").read_text())
    said |= {key: 1 for key in ("n_layer", "num_hidden_layers") if key in said}
    said |= {"layer_types": said["layer_types"][:1]} if "layer_types" in said else {}
    (folder / "config.json").write_text(json.dumps(said))


def test_half_a_model_is_refused(
    source: ModelSource,
    make_causal_lm: MakeCausalLM,
    make_scalar_model: Callable[..., ScalarModel],
    tmp_path: Path,
) -> None:
    renderer = Renderer(source.load_tokenizer())
    for name, net in {"model": make_causal_lm(source), "reward": make_scalar_model(source)}.items():
        folder = export_model(net, renderer, tmp_path / name, {})
        # These are the weights of the second layer. transformers takes GPT-2's c_attn.bias for the buffer attn.bias.
        names = [key for key in load_file(folder / "model.safetensors") if ".1." in key and "c_attn.bias" not in key]
        shorten(folder)
        expected = rf"{folder}: its configuration has no place for {len(names)} weights in its files: {min(names)}, "
        for head in ("normal", "zero", "trained"):
            if (name, head) != ("model", "trained"):
                with pytest.raises(UserError, match=expected):
                    load_scalar_model(source.trained(folder), head)
        if name == "model":
            with pytest.raises(UserError, match=rf"^model\.pretrained={expected}"):
                load_causal_lm(source.trained(folder))
        else:
            with pytest.raises(UserError, match=rf"^reward\.path={expected}"):
                load_reward_model(str(folder))


def test_half_a_model_is_refused_in_shards_and_where_it_would_be_quantized(
    make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = make_source("llama")
    make_causal_lm(source).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    shorten(tmp_path)
    folder = source.trained(tmp_path)
    for one in (folder, replace(folder, quantization="nf4", adapter=Lora())):
        with pytest.raises(UserError, match=r"no place for 9 weights in its files: model\.layers\.1\."):
            load_causal_lm(one)


@pytest.mark.parametrize("family", ["gptj", "gpt2", "gpt_neox", "llama"])
def test_what_old_files_hold_beside_weights_is_left_out(
    family: str, make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = make_source(family)
    net = make_causal_lm(source)
    net.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    inside = net.base_model_prefix + (".h.0.attn" if family in ("gptj", "gpt2") else ".layers.0.attention")
    computed = [f"{inside}.bias", f"{inside}.masked_bias", f"{inside}.rotary_emb.inv_freq", "v_head.summary.weight"]
    tensors |= {name: torch.ones(1) for name in computed}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    load_causal_lm(source.trained(tmp_path))
    load_scalar_model(source.trained(tmp_path), "normal")


def test_weights_of_a_checkpoint_must_be_those_of_its_configuration(
    make_source: MakeSource, make_scalar_model: Callable[..., ScalarModel]
) -> None:
    source = make_source("llama")
    for scalar, net in [(False, load_causal_lm(source)), (True, make_scalar_model(source))]:
        for change, name in [
            ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight, "),
            ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight, "),
            ({"intermediate_size": 32}, "model.layers.0.mlp.down_proj.weight, "),
        ]:
            other = empty_net(make_source("llama", **change), scalar=scalar)
            with pytest.raises(UserError, match=rf"of another model than the configuration: they differ in {name}"):
                rebuilt(other, dict(net.state_dict()))
        assert said(rebuilt(empty_net(source, scalar=scalar), dict(net.state_dict()))).numbers.equal(said(net).numbers)


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


def _cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _cut_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 the rest of it is elsewhere")


def _configure(**changes: object) -> Callable[[Path], None]:
    def configure(folder: Path) -> None:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(said | changes))

    return configure


def _lose_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, **index}))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (_cut, "cannot be loaded: Error while deserializing header"),
    "cut pickle": (_cut_pickle, "cannot be loaded: PytorchStreamReader failed"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded: Error no file named"),
    "lost shard": (_lose_shard, r"cannot be loaded: .*model-00002-of-00002\.safetensors"),
    "broken configuration": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json is not JSON: .* copy the model again",
    ),
    "no number": (_configure(hidden_size="big"), "cannot be loaded: .* 'hidden_size' expected int, got str"),
    "other kind": (_configure(model_type="nothing"), "cannot be loaded: .* model type `nothing`"),
    # All weights: nine in each of two layers, embedding, last norm and output.
    "other shapes": (
        _configure(hidden_size=64, head_dim=16),
        r"21 weights in its files do not fit its configuration: lm_head\.weight has the shape \(64, 32\), and should "
        r"have \(64, 64\)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_a_folder_that_exists_is_said_in_one_line(
    wrong: str, make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    make_causal_lm(make_source("llama")).save_pretrained(tmp_path)
    spoil, message = WRONG[wrong]
    spoil(tmp_path)
    with pytest.raises(UserError, match=rf"^model\.pretrained={tmp_path}: {message}") as error:
        load_causal_lm(ModelSource(pretrained=str(tmp_path)))
    assert "\n" not in str(error.value)
    assert "hub" not in str(error.value)


def test_a_name_that_is_no_folder_is_asked_of_the_hub() -> None:
    with pytest.raises(
        UserError, match="not a model folder, and cannot be downloaded from the hub: We couldn't connect"
    ):
        load_causal_lm(ModelSource(pretrained="nobody/no-such-model"))


def test_a_folder_without_a_tokenizer_says_all_that_could_describe_one(
    make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    make_causal_lm(make_source("llama")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"cannot be loaded: .* one of: \(1\) .* \(2\) .*") as error:
        ModelSource(pretrained=str(tmp_path)).load_tokenizer()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": "big"}, "'hidden_size' expected int, got str"),
        ({"num_attention_heads": 5}, r"not a multiple of the number of attention heads \(5\)"),
    ],
)
def test_an_architecture_that_cannot_be_built_says_why(
    settings: dict[str, object], message: str, make_source: MakeSource
) -> None:
    with pytest.raises(UserError, match=rf"^model\.config: .*{message}") as error:
        load_causal_lm(make_source("llama", **settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        pytest.param(
            "flash_attention_2",
            "FlashAttention2 .* installed",
            marks=pytest.mark.skipif(
                find_spec("flash_attn") is not None,
                reason="flash-attn is installed",
            ),
        ),
        ("no_such", "is not supported. The only possible"),
    ],
)
def test_a_kind_of_attention_that_is_not_there_is_named(
    attention: str, message: str, make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = replace(make_source("llama"), attn_implementation=attention)
    make_causal_lm(make_source("llama")).save_pretrained(tmp_path)
    for place, one in {"model.config": source, f"model.pretrained={tmp_path}": source.trained(tmp_path)}.items():
        with pytest.raises(UserError, match=f"^{place} with model.attn_implementation={attention}: .*{message}"):
            load_causal_lm(one)
