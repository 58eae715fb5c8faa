"""GGUF files: a model that is read from one equals the model that was written, and can be trained like any other."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource

DEMO = Path(str(files("lightning_rlhf.demo"))) / "tokenizer"
NET = {
    "model_type": "llama",
    "vocab_size": 814,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 5000.0,
    "initializer_range": 0.3,
    "tie_word_embeddings": True,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama_cpp(name: str, weight: Tensor) -> Tensor:
    """In rotary embeddings, llama.cpp rotates neighbours, and Hugging Face the two halves of a head."""
    heads = {"attn_q": NET["num_attention_heads"], "attn_k": NET["num_key_value_heads"]}.get(name)
    if heads is None:
        return weight
    return weight.unflatten(0, (int(heads), 2, -1)).transpose(1, 2).flatten(0, 2)


def write_gguf(
    net: LlamaForCausalLM, path: Path, *, pad: int | None = None, template: str | None = None, without: str = ""
) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(5000.0)
    writer.add_vocab_size(814)
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    ids = dict(tokenizer["model"]["vocab"])
    control = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(ids | control, key=(ids | control).__getitem__))
    writer.add_token_types([3 if number in control.values() else 1 for number in range(814)])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(control["<|end|>"])
    writer.add_eos_token_id(control["<|end|>"])
    if pad is not None:
        writer.add_pad_token_id(pad)
    if template is not None:
        writer.add_chat_template(template)
    for name, weight in net.state_dict().items():
        if name in ("lm_head.weight", without):
            continue
        block = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
        ours = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}.get(name)
        ours = ours or f"blk.{block[0]}.{NAMES[block[2]]}"
        writer.add_tensor(f"{ours}.weight", llama_cpp(ours.rpartition(".")[2], weight).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def net() -> Any:
    return load_causal_lm(ModelSource(config=NET, tokenizer=str(DEMO))).eval()


@pytest.fixture(scope="module")
def file(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(net, path)
    return path


@torch.no_grad()
def test_a_gguf_file_gives_the_net_that_was_written(net: Any, file: Path) -> None:
    read = load_causal_lm(ModelSource(pretrained=str(file))).eval()
    ids = torch.arange(5, 45)[None]
    torch.testing.assert_close(read(ids).logits, net(ids).logits, atol=1e-5, rtol=1e-5)
    assert read.dtype == torch.float32
    assert load_causal_lm(ModelSource(pretrained=str(file), dtype="bfloat16")).dtype == torch.bfloat16


def test_its_configuration_is_not_shared_between_nets(file: Path) -> None:
    source = ModelSource(pretrained=str(file))
    source.hf_config().num_labels = 17
    assert source.hf_config().num_labels == 2


@torch.no_grad()
def test_a_scalar_model_has_the_backbone_of_the_file(net: Any, file: Path) -> None:
    scalar = load_scalar_model(ModelSource(pretrained=str(file)), "normal")
    for name, weight in net.model.state_dict().items():
        assert torch.equal(scalar.net.model.state_dict()[name], weight), name
    with pytest.raises(UserError, match="is not a trained reward model"):
        load_scalar_model(ModelSource(pretrained=str(file)), "trained")


def test_the_tokenizer_and_the_stop_token_are_those_of_the_file(file: Path) -> None:
    source = ModelSource(pretrained=str(file))
    tokenizer, original = source.load_tokenizer(), ModelSource(config=NET, tokenizer=str(DEMO)).load_tokenizer()
    text = "My kettle leaks.\n\nWhat now, 12 times?<|end|>"
    assert tokenizer(text)["input_ids"] == original(text)["input_ids"]
    assert source.stop_ids() == (original.convert_tokens_to_ids("<|end|>"),)


def test_the_chat_template_of_the_file_is_used_and_a_plain_one_where_it_has_none(net: Any, tmp_path: Path) -> None:
    question = [{"role": "user", "content": "My kettle leaks."}]
    for template, expected in [
        ("{% for m in messages %}ask {{ m.content }}{% endfor %}", "ask My"),
        (None, "Human: My"),
    ]:
        write_gguf(net, tmp_path / "model.gguf", template=template)
        tokenizer = ModelSource(pretrained=str(tmp_path / "model.gguf")).load_tokenizer()
        assert expected in tokenizer.decode(Renderer(tokenizer).prompt(question))


def test_an_export_of_it_is_a_plain_folder(file: Path, tmp_path: Path) -> None:
    source = ModelSource(pretrained=str(file))
    read = load_causal_lm(source)
    folder = export_model(read, Renderer(source.load_tokenizer()), tmp_path / "model", {})
    again = ModelSource(pretrained=str(folder))
    assert all(torch.equal(a, b) for a, b in zip(read.parameters(), load_causal_lm(again).parameters(), strict=True))
    assert again.load_tokenizer()("My kettle")["input_ids"] == source.load_tokenizer()("My kettle")["input_ids"]
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("pad", [None, 0, 3])
def test_pad_stays_what_the_file_says_or_none(pad: int | None, net: Any, tmp_path: Path) -> None:
    write_gguf(net, tmp_path / "model.gguf", pad=pad)
    source = ModelSource(pretrained=str(tmp_path / "model.gguf"))
    read, tokenizer = load_causal_lm(source), source.load_tokenizer()
    folder = export_model(read, Renderer(tokenizer), tmp_path / "model", {})
    again = ModelSource(pretrained=str(folder))
    assert [again.load_tokenizer().pad_token_id, again.hf_config().pad_token_id] == [pad, pad]
    assert load_causal_lm(again).get_input_embeddings().num_embeddings == 814


def test_a_file_that_lacks_a_weight_is_refused(net: Any, tmp_path: Path) -> None:
    lost = "model.layers.1.mlp.up_proj.weight"
    write_gguf(net, tmp_path / "model.gguf", without=lost)
    source = ModelSource(pretrained=str(tmp_path / "model.gguf"))
    for load in (load_causal_lm, lambda source: load_scalar_model(source, "normal")):
        with pytest.raises(UserError, match=f"1 weights of .* would be random: {lost}"):
            load(source)


def test_its_weights_can_be_quantized_anew_for_training(file: Path) -> None:
    read = load_causal_lm(ModelSource(pretrained=str(file), quantization="nf4", adapter=Lora()))
    assert type(read.model.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"


def test_what_is_no_gguf_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.pretrained=.*nothing\.gguf: no such file"):
        ModelSource(pretrained=str(tmp_path / "nothing.gguf")).hf_config()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF is what it says, and not what it is")
    with pytest.raises(UserError, match=r"^model\.pretrained=.*broken\.gguf: cannot be loaded") as error:
        ModelSource(pretrained=str(tmp_path / "broken.gguf")).hf_config()
    assert "\n" not in str(error.value)
    # The file is cut within its header.
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00")
    with pytest.raises(UserError, match=r"^model\.pretrained=.*cut\.gguf: cannot be loaded: "):
        ModelSource(pretrained=str(tmp_path / "cut.gguf")).hf_config()
