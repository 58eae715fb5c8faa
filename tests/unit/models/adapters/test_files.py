"""Adapter files, merged weights and quantized layers give what the model in memory gives."""

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models import export, exported_weights
from lightning_rlhf.models.adapters.active import activated
from lightning_rlhf.models.adapters.files import adapter_kind, load_adapter, save_adapter
from lightning_rlhf.models.adapters.lora import Lora, inject
from lightning_rlhf.models.adapters.merging import merged_weights, plain_net, with_adapters
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.quantization import quantization_config, quantized
from lightning_rlhf.models.rebuilding import rebuilt
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource

MakeSource = Callable[..., ModelSource]
IDS = torch.arange(8, 20)[None]
LORAS = [Lora(rank=4), Lora(rank=4, rslora=True), Lora(rank=4, dora=True)]
IDENTITIES = ["lora", "rslora", "dora"]


def drawn(net: Any) -> Any:
    """Returns the same model with adapters that are not 0."""
    torch.manual_seed(3)
    for name, weight in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
        if "magnitude" in name:
            weight.data.mul_(1.3)
    return net.eval()


@torch.no_grad()
def logits(net: Any) -> Tensor:
    return net(IDS).logits


def scalar(source: ModelSource) -> Any:
    return load_scalar_model(source, "normal").net


@pytest.mark.parametrize("lora", LORAS, ids=IDENTITIES)
@pytest.mark.parametrize("load", [load_causal_lm, scalar])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_plain_peft_reads_the_folder_and_so_do_we(
    lora: Lora, load: Callable, family: str, make_source: MakeSource, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    net = load(make_source(family))
    base = copy.deepcopy(net)
    inject(net, Lora(rank=2), "other")
    inject(net, lora, "own")
    drawn(net)
    if load is scalar:
        torch.nn.init.normal_(net.score.weight)
    expected = logits(net)
    save_adapter(net, "own", tmp_path, "some/base", load is scalar)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"SHA256SUMS", "adapter_config.json", "adapter_model.safetensors"}
    other = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert torch.equal(logits(other), expected)
    assert other.peft_config["default"].base_model_name_or_path == "some/base"
    base.name_or_path = "some/base"
    load_adapter(base, tmp_path, "again")
    assert torch.equal(logits(base.eval()), expected)


def test_what_is_no_adapter_of_the_net_is_an_error(make_source: MakeSource, tmp_path: Path) -> None:
    net = load_causal_lm(make_source("llama"))
    with pytest.raises(UserError, match=r"there is no adapter_model\.safetensors in it"):
        load_adapter(net, tmp_path, "own")
    inject(net, Lora(), "own")
    save_adapter(net, "own", tmp_path, None, False)
    deeper = load_causal_lm(make_source("llama", num_hidden_layers=3))
    with pytest.raises(UserError, match=r"not an adapter of LlamaForCausalLM: they differ in .*layers\.2"):
        load_adapter(deeper, tmp_path, "own")
    with pytest.raises(UserError, match="not an adapter of GPT2LMHeadModel"):
        load_adapter(load_causal_lm(make_source("gpt2")), tmp_path, "own")


@pytest.fixture
def bases(make_source: MakeSource, tmp_path: Path) -> tuple[ModelSource, ModelSource]:
    """Two models of one size in the folders `one` and `other`, and an adapter of the first in `adapter`."""
    sources = []
    for seed, name in enumerate(["one", "other"]):
        source = replace(make_source("llama"), seed=seed)
        load_causal_lm(source).save_pretrained(tmp_path / name)
        sources.append(replace(source, pretrained=str(tmp_path / name), config=None, adapter=Lora(dropout=0.1)))
    net = load_causal_lm(sources[0])
    save_adapter(drawn(net), "default", tmp_path / "adapter", net.name_or_path, False)
    return sources[0], sources[1]


def test_an_adapter_of_another_net_of_this_size_is_refused(
    bases: tuple[ModelSource, ModelSource],
    make_source: MakeSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = (replace(source, adapter_dir=str(tmp_path / "adapter")) for source in bases)
    random = replace(make_source("llama"), adapter=Lora(), adapter_dir=str(tmp_path / "adapter"))
    for source, name in [(other, f"not to {tmp_path}/other"), (random, "not to a model with random weights")]:
        with pytest.raises(UserError, match=f"the adapter belongs to {tmp_path}/one, {name}: set model.pretrained="):
            load_causal_lm(source)
    expected = logits(load_causal_lm(one).eval())
    # The spelling of the folder does not matter.
    monkeypatch.chdir(tmp_path)
    for name in ("one", "./one", "../" + tmp_path.name + "/other/../one"):
        assert torch.equal(logits(load_causal_lm(replace(one, pretrained=name)).eval()), expected)
    net = load_causal_lm(replace(make_source("llama"), adapter=Lora()))
    save_adapter(net, "default", tmp_path / "adapter", net.name_or_path or None, False)
    load_causal_lm(random)
    with pytest.raises(UserError, match="the adapter belongs to a model with random weights, not to"):
        load_causal_lm(one)


def test_nets_that_are_built_anew_keep_their_name(bases: tuple[ModelSource, ModelSource], tmp_path: Path) -> None:
    net = load_causal_lm(bases[0])
    assert rebuilt(net, dict(net.state_dict())).name_or_path == str(tmp_path / "one")
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    plain = load_causal_lm(replace(bases[0], adapter=None))
    assert quantized(plain, quantization_config("nf4", torch.float32)).name_or_path == str(tmp_path / "one")


def test_the_configuration_says_the_dropout_and_may_say_where_the_adapter_is(
    bases: tuple[ModelSource, ModelSource], tmp_path: Path
) -> None:
    source = replace(bases[0], adapter_dir=str(tmp_path / "adapter"), adapter=Lora())
    net = load_causal_lm(source).train()
    assert torch.equal(net(IDS).logits, logits(net.eval()))
    everything = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    load_causal_lm(replace(source, adapter=Lora(target_modules=everything[::-1])))
    with pytest.raises(UserError, match=r"target_modules=\[q_proj\], but the adapter in .* adapts down_proj, gate_"):
        load_causal_lm(replace(source, adapter=Lora(target_modules=["q_proj"])))


@pytest.mark.parametrize(
    ("targets", "read"), [('["b", "a"]', ["a", "b"]), ('"all-linear"', None), ('".*_proj"', None), ("null", None)]
)
def test_a_file_of_an_early_peft_is_read(targets: str, read: list[str] | None, tmp_path: Path) -> None:
    text = f'{{"peft_type": "LORA", "r": 3, "lora_alpha": 5, "lora_dropout": 0.1, "target_modules": {targets}}}'
    (tmp_path / "adapter_config.json").write_text(text)
    assert adapter_kind(tmp_path) == Lora(rank=3, alpha=5, dropout=0.1, target_modules=read)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"peft_type": "IA3"}', "an adapter of peft_type=IA3; only LoRA adapters can be loaded"),
        ('{"peft_type": "OTHER"}', "peft cannot read it: 'OTHER'"),
        ('{"r": 3}', "peft cannot read it: .*missing required keys"),
        ("[3]", "peft cannot read it: "),
        ('{"r": ', r"adapter_config\.json: peft cannot read it: .*line 1 column 7"),
    ],
)
def test_a_file_that_describes_no_lora_is_an_error(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=problem):
        adapter_kind(tmp_path)


@pytest.mark.parametrize("lora", LORAS, ids=IDENTITIES)
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "bloom", "gpt_neox"])
def test_merged_weights_give_what_weights_and_adapter_give(lora: Lora, family: str, make_source: MakeSource) -> None:
    net = load_causal_lm(make_source(family))
    inject(net, Lora(rank=2), "other")
    inject(net, lora, "own")
    drawn(net)
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    with activated(net, "own"):
        plain, expected = plain_net(net).eval(), logits(net)
    assert not any("lora" in name or "base_layer" in name for name, _ in plain.named_parameters())
    assert_close(logits(plain), expected, atol=2e-5 * float(expected.abs().max()), rtol=0)
    with activated(net, None):
        assert torch.equal(logits(plain_net(net).eval()), logits(net))
    # The model has not changed.
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())


def test_a_net_that_is_elsewhere_is_built_with_its_adapters(make_source: MakeSource) -> None:
    net = load_causal_lm(make_source("gpt2"))
    inject(net, Lora(rank=2), "one")
    inject(net, Lora(rank=4, dora=True), "two")
    drawn(net)
    with activated(net, "one"):
        built = with_adapters(type(net), net, dict(net.state_dict())).eval()
        assert torch.equal(logits(built), logits(net))
    with activated(built, "two"):
        assert torch.equal(logits(built), logits(net))


def test_a_reward_model_in_16_bits_keeps_the_digits_of_its_head(make_source: MakeSource, tmp_path: Path) -> None:
    source = replace(make_source("llama", vocab_size=814), dtype="bfloat16", adapter=Lora())
    model = load_scalar_model(source, "normal")
    drawn(model)
    with torch.no_grad():
        model.bias.fill_(0.123456)
    built = rebuilt(model, dict(model.state_dict()))
    assert torch.equal(built.head.weight, model.head.weight)
    assert torch.equal(built.bias, model.bias)
    export_model(model, Renderer(source.load_tokenizer()), tmp_path / "model", {})
    # The whole model has its own dtype, and the file of the adapter is in fp32.
    assert {weight.dtype for weight in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.bfloat16}
    net = load_scalar_model(replace(source, adapter=None), "zero").net
    head = load_adapter(net, tmp_path / "adapter", "again")
    assert head is not None
    assert torch.equal(head.weight, model.head.weight)
    assert torch.equal(net.score.weight, model.head.weight)
    assert head.bias == float(model.bias.detach())


@pytest.mark.parametrize(
    ("method", "dora"), [("nf4", False), ("nf4", True), ("fp4", False), ("fp4", True), ("int8", False)]
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_quantized_net_learns_by_its_adapter_and_is_merged(
    family: str, method: str, dora: bool, make_source: MakeSource
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    source = replace(make_source(family, initializer_range=0.1), quantization=method)
    net = drawn(load_causal_lm(replace(source, adapter=Lora(dora=dora))))
    kind = "Linear8bitLt" if method == "int8" else "Linear4bit"
    # Each of two blocks has four or seven linear layers; the head is unchanged.
    kinds = [f"{type(module).__module__}.{type(module).__name__}" for module in net.modules()]
    assert kinds.count(f"bitsandbytes.nn.modules.{kind}") == (8 if family == "gpt2" else 14)
    assert type(net.lm_head).__name__ == "Linear"
    before = {name: weight.clone() for name, weight in net.state_dict().items() if isinstance(weight, Tensor)}
    net(IDS).logits.logsumexp(-1).square().sum().backward()
    for name, weight in net.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.any())) == ("lora" in name), name
    expected = logits(net)
    merged = plain_net(net).eval()
    assert not hasattr(merged.config, "quantization_config")
    difference = float((logits(merged) - expected).abs().max() / expected.abs().max())
    # Layers in 8 bits also round their inputs.
    assert difference < (0.05 if method == "int8" else 1e-5)
    assert torch.equal(logits(net), expected)
    assert all(torch.equal(before[name], weight) for name, weight in net.state_dict().items() if name in before)
    # The result differs from the model before quantization.
    original = logits(load_causal_lm(replace(source, quantization=None)).eval())
    with activated(net, None):
        assert float((logits(net) - original).abs().max() / original.abs().max()) > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_plain_peft_reads_an_adapter_that_was_trained_on_4_bits(
    family: str, make_source: MakeSource, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    source = replace(make_source(family), quantization="nf4")
    net = drawn(load_causal_lm(replace(source, adapter=Lora())))
    save_adapter(net, "default", tmp_path, None, False)
    # The base has the same weights in 4 bits.
    other = peft.PeftModel.from_pretrained(load_causal_lm(source), tmp_path).eval()
    assert_close(logits(other), logits(net), atol=1e-5, rtol=1e-5)
    # The base has plain weights with the same numbers, which GPT-2 transposes.
    with activated(net, None):
        plain = plain_net(net)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    assert_close(logits(adapted), logits(net), atol=1e-4 * float(logits(net).abs().max()), rtol=0)


def test_a_quantized_net_computes_alike_in_training_and_evaluation(make_source: MakeSource) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    net = load_causal_lm(replace(make_source("llama", hidden_size=128), quantization="nf4"))
    trained = net.train()(IDS).logits
    assert torch.equal(logits(net.eval()), trained)
    assert torch.equal(net.train()(IDS).logits, trained)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", [None, "nf4", "int8"])
def test_an_export_is_the_merged_net_with_its_adapter_beside_it(
    method: str | None, dtype: str, make_source: MakeSource, tmp_path: Path
) -> None:
    if method:
        pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    source = make_source("llama", vocab_size=814, initializer_range=0.1)
    source = replace(source, adapter=Lora(), quantization=method, dtype=dtype)
    net = drawn(load_causal_lm(source))
    export_model(net, Renderer(source.load_tokenizer()), tmp_path / "model", {})
    export = load_causal_lm(ModelSource(pretrained=str(tmp_path / "model"), dtype=dtype)).eval()
    assert type(export.model.layers[0].mlp.up_proj) is torch.nn.Linear
    expected = logits(net)
    rounding = {"float32": 1e-5, "bfloat16": 0.05}[dtype] if method != "int8" else 0.1
    assert_close(logits(export), expected, atol=rounding * float(expected.abs().max()), rtol=0)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("load", [load_causal_lm, lambda source: load_scalar_model(source, "normal")])
@pytest.mark.parametrize(
    ("dtype", "method", "size"),
    # The effects are far below rounding (5e-3 of the largest logit in fp32, 6% in bf16), but in 8 bits above it.
    [("float32", None, 1e-4), ("float32", "nf4", 1e-4), ("bfloat16", None, 3e-3), ("float32", "int8", 1.0)],
)
def test_an_export_that_lacks_the_adapter_is_an_error(
    dtype: str,
    method: str | None,
    size: float,
    load: Callable,
    make_source: MakeSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if method:
        pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    source = make_source("llama", vocab_size=814, initializer_range=0.1)
    source = replace(source, adapter=Lora(), dtype=dtype, quantization=method)
    net = drawn(load(source))
    for name, weight in net.named_parameters():
        if "lora_B" in name:
            weight.data.mul_(size)
    export_model(net, Renderer(source.load_tokenizer()), tmp_path / "whole", {})

    def without(net: Any) -> Any:
        with activated(net, None):
            yield from merged_weights(net)

    monkeypatch.setattr(exported_weights, "merged_weights", without)
    with pytest.raises(RuntimeError, match="the reloaded model differs by"):
        export_model(net, Renderer(source.load_tokenizer()), tmp_path / "model", {})
    assert not (tmp_path / "model").exists()


def test_an_export_with_other_weights_than_the_merged_ones_is_an_error(
    make_source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = replace(make_source("llama", vocab_size=814), adapter=Lora())
    net = drawn(load_causal_lm(source))

    def other(*args: Any, **kwargs: Any) -> Any:
        reloaded = _reload(*args, **kwargs)
        # One number of many is changed, by less than merging may change a logit.
        reloaded.lm_head.weight.data[0, 0] *= 1.002
        return reloaded

    _reload = export._reload
    monkeypatch.setattr(export, "_reload", other)
    with pytest.raises(RuntimeError, match=r"has 1 other weights than were written, such as lm_head\.weight"):
        export_model(net, Renderer(source.load_tokenizer()), tmp_path / "model", {})


def test_a_net_in_training_that_cannot_be_exported_is_still_in_training(
    make_source: MakeSource, tmp_path: Path
) -> None:
    net = load_causal_lm(make_source("llama", vocab_size=814)).train()
    net.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(net, Renderer(make_source("llama").load_tokenizer()), tmp_path / "model", {})
    assert net.training


def test_a_quantization_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UserError, match=r"model\.quantization=int3: expected one of nf4, fp4, int8, or null"):
        ModelSource(pretrained="gpt2", quantization="int3")
    with pytest.raises(UserError, match=r"int8 with model\.adapter\.dora=true"):
        ModelSource(pretrained="gpt2", quantization="int8", adapter=Lora(dora=True))


def test_an_adapter_that_was_found_imports_no_module(make_source: MakeSource, tmp_path: Path) -> None:
    """peft would import the module that `megatron_core` names."""
    net = load_causal_lm(make_source("llama"))
    inject(net, Lora(rank=4), "default")
    folder = save_adapter(net, "default", tmp_path / "adapter", None, scalar=False)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"megatron_config": {}, "megatron_core": "antigravity"}))
    with pytest.raises(UserError, match="adapter_config.json: megatron_config is set"):
        load_adapter(load_causal_lm(make_source("llama")), folder, "default")
    assert "antigravity" not in sys.modules
