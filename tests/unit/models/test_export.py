"""Users of an export get what was trained: it stops where it stopped in training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

MakeSource = Callable[..., ModelSource]
MakeCausalLM = Callable[..., PreTrainedModel]
END = 3
"""`<|end|>` is the EOS of the demo's tokenizer; id 0 is PAD, and ids 1 and 2 begin turns."""


@torch.no_grad()
def test_plain_transformers_stops_where_training_stopped(
    source: ModelSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    net, prompts = make_causal_lm(source), torch.arange(4, 60).view(8, 7)
    engine, greedy = PaddedEngine(net, torch.device("cpu")), Sampling(max_new_tokens=12, temperature=0)
    requests = [Request(prompt, RandomKey(0, (SAMPLING,), row)) for row, prompt in enumerate(prompts.tolist())]
    free = engine.generate(requests, greedy, stop_ids=())
    # The model outputs this token in some place, so that it ends some answers in addition to EOS.
    other = next(completion.ids[5] for completion in free if completion.ids[5] > END)
    renderer = Renderer(source.load_tokenizer(), stop_ids=[other])
    ours = engine.generate(requests, greedy, stop_ids=renderer.stop_ids)
    assert any(completion.finish_reason == "stop" for completion in ours)
    plain: Any = AutoModelForCausalLM.from_pretrained(export_model(net, renderer, tmp_path / "model", {}))
    for prompt, completion in zip(prompts, ours, strict=True):
        theirs = plain.generate(prompt[None], max_new_tokens=12, do_sample=False, pad_token_id=0)[0, len(prompt) :]
        assert theirs.tolist() == completion.ids


def test_all_files_of_an_export_name_one_stop_set(
    make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = make_source("llama", eos_token_id=2, bos_token_id=1, pad_token_id=7)
    for given, written in [([], END), ([100, 7], [END, 7, 100])]:
        renderer = Renderer(source.load_tokenizer(), stop_ids=given)
        folder = export_model(make_causal_lm(source), renderer, tmp_path / "model", {})
        config = json.loads((folder / "config.json").read_text())
        settings = GenerationConfig.from_pretrained(folder)
        assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (None, written, 0)
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (None, written, 0)
        assert json.loads((folder / "lightning_rlhf.json").read_text())["stop_ids"] == [END, *sorted(given)]
        # A run that continues from the export stops there too.
        again = source.trained(folder)
        assert Renderer(again.load_tokenizer(), stop_ids=again.stop_ids()).stop_ids == renderer.stop_ids


def test_a_reward_model_keeps_the_stop_set(
    make_source: MakeSource, make_scalar_model: Callable[..., ScalarModel], tmp_path: Path
) -> None:
    source = make_source("gpt2")
    renderer = Renderer(source.load_tokenizer(), stop_ids=[100])
    folder = export_model(make_scalar_model(source), renderer, tmp_path / "model", {})
    assert ModelSource(pretrained=str(folder)).stop_ids() == (END, 100)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "bloom", "gptj", "gpt_neox", "mistral", "qwen2", "gemma"])
def test_a_net_that_is_built_has_no_ids_of_its_class(family: str) -> None:
    source = ModelSource(config={"model_type": family}, tokenizer="pkg://lightning_rlhf.demo/tokenizer")
    config = source.hf_config()
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)
    assert Renderer(source.load_tokenizer(), stop_ids=source.stop_ids()).stop_ids == (END,)


def test_ids_of_a_pretrained_net_are_those_that_its_files_name(
    make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = make_source("llama")
    source.load_tokenizer().save_pretrained(tmp_path)
    make_causal_lm(source).save_pretrained(tmp_path)
    folder = source.trained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def write(**ids: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config | ids))

    # Generation settings come first, as in `generate` of transformers, and then the configuration.
    write(eos_token_id=50)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [60, 61]}))
    assert folder.stop_ids() == (60, 61)
    (tmp_path / "generation_config.json").unlink()
    assert folder.stop_ids() == (50,)
    # The default of LlamaConfig would be 2.
    config.pop("eos_token_id")
    write()
    assert folder.hf_config().eos_token_id == 2
    assert folder.stop_ids() == ()
    write(eos_token_id=2)
    with pytest.raises(UserError, match=r"stop token 2: it is <\|assistant\|>"):
        Renderer(folder.load_tokenizer(), stop_ids=folder.stop_ids())


def test_pad_of_a_folder_is_trained_as_any_other_token(
    make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = make_source("llama")
    tokenizer = source.load_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    folder = source.trained(export_model(make_causal_lm(source), Renderer(tokenizer), tmp_path / "model", {}))
    assert folder.hf_config().pad_token_id == END
    net = load_causal_lm(replace(folder, dropout=0.0))
    net(torch.tensor([[5, END, 6]])).logits[0, -1].sum().backward()
    assert net.get_input_embeddings().weight.grad[END].abs().sum() > 0


def test_a_pad_that_the_embedding_cannot_hold_is_left_out(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source("llama")
    tokenizer = source.load_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|another|>"})
    assert tokenizer.pad_token_id > 64
    folder = export_model(load_causal_lm(source), Renderer(tokenizer), tmp_path / "model", {})
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == tokenizer.pad_token_id
    assert load_causal_lm(source.trained(folder)).config.pad_token_id is None
