"""An export is tried where people use it: plain transformers and peft stop, and score, as training did."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    pipeline,
)

from lightning_rlhf.data.fields import Message
from lightning_rlhf.data.pairs import cut_at_end
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models import export as export_module
from lightning_rlhf.models.adapters import files
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.export_trial import ends_otherwise
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.models.usage import ENDINGS
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

MakeSource = Callable[..., ModelSource]
MakeCausalLM = Callable[..., PreTrainedModel]
# The demo's tokenizer has 814 tokens, of which 3 is its EOS; 814 is the `<|im_end|>` that `chatml` adds.
VOCABULARY, END, IM_END = 820, 3, 814
CHATML = (
    "{% for m in messages %}{{ '<|user|>' + m['role'] + ': ' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant: ' }}{% endif %}"
)
ASKED = [Message(role="user", content="The kettle leaks.")]
ANSWERED = [*ASKED, Message(role="assistant", content="Close the lid.")]


def chatml(source: ModelSource) -> Renderer:
    """A base model whose template ends a turn with `<|im_end|>`, while EOS ends a document."""
    tokenizer = source.load_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == IM_END
    return Renderer(tokenizer, CHATML)


@pytest.mark.parametrize("stop", [END, IM_END])
@torch.no_grad()
def test_a_base_model_whose_template_ends_turns_with_another_token_than_eos_stops_as_in_training(
    stop: int, make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = make_source("llama", vocab_size=VOCABULARY)
    net, greedy = make_causal_lm(source), Sampling(max_new_tokens=12, temperature=0)
    engine, prompt = PaddedEngine(net, torch.device("cpu")), chatml(source).prompt(ASKED)
    request = Request(prompt, RandomKey(0, (SAMPLING,), 0))
    (free,) = engine.generate([request], greedy, stop_ids=())
    # The net says a stop token in the middle of its answer, since the output weights of two tokens change places.
    said = free.ids[5]
    head: Any = net.get_output_embeddings()
    head.weight[[said, stop]] = head.weight[[stop, said]]
    renderer = chatml(source)
    assert renderer.conversation(ANSWERED).ids[-2] == IM_END
    (ours,) = engine.generate([request], greedy, stop_ids=renderer.stop_ids)
    assert (ours.ids[-1], ours.finish_reason) == (stop, "stop")
    folder = export_model(net, renderer, tmp_path / "model", {}, sampling=greedy.generation_settings(limited=True))
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == prompt
    assert plain.generate(**inputs)[0, len(prompt) :].tolist() == ours.ids


@pytest.mark.parametrize(
    ("written", "message"),
    [([END], r"goes on after '<\|im_end\|>'"), ([1, END, IM_END], r"ends answers at '<\|user\|>'")],
)
def test_an_export_that_would_stop_elsewhere_does_not_appear(
    written: list[int],
    message: str,
    make_source: MakeSource,
    make_causal_lm: MakeCausalLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = make_source("llama", vocab_size=VOCABULARY)
    renderer, net = chatml(source), make_causal_lm(source)
    folder = export_model(net, renderer, tmp_path / "model", {})
    assert ends_otherwise(folder, renderer) is None
    name = export_module.name_special_tokens

    def name_others(model: Any, *settings: Any) -> None:
        name(model, *settings)
        model.generation_config.eos_token_id = written

    monkeypatch.setattr(export_module, "name_special_tokens", name_others)
    with pytest.raises(RuntimeError, match=message):
        export_model(net, renderer, tmp_path / "other", {})
    assert not (tmp_path / "other").exists()


def test_an_export_samples_as_it_was_trained(
    make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = make_source("llama", vocab_size=VOCABULARY)
    renderer, net = Renderer(source.load_tokenizer()), make_causal_lm(source)
    # As many published models have it, which PPO knows nothing of.
    net.generation_config = GenerationConfig(do_sample=True, top_k=20, temperature=0.3, repetition_penalty=1.1)
    kept = GenerationConfig.from_pretrained(export_model(net, renderer, tmp_path / "kept", {}))
    assert (kept.top_k, kept.temperature, kept.repetition_penalty) == (20, 0.3, 1.1)
    sampling = Sampling(max_new_tokens=48, temperature=0.7).generation_settings(limited=True)
    folder = export_model(net, renderer, tmp_path / "model", {}, sampling=sampling)
    written = json.loads((folder / "generation_config.json").read_text())
    written.pop("transformers_version")
    assert written == {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": 48,
        "eos_token_id": END,
        "pad_token_id": 0,
    }


def test_greedy_sampling_and_a_tokenizer_without_pad(
    make_source: MakeSource, make_causal_lm: MakeCausalLM, tmp_path: Path
) -> None:
    source = make_source("gpt2", vocab_size=VOCABULARY)
    tokenizer = source.load_tokenizer()
    tokenizer.pad_token = None
    sampling = Sampling(max_new_tokens=48, temperature=0).generation_settings(limited=False)
    folder = export_model(make_causal_lm(source), Renderer(tokenizer), tmp_path / "model", {}, sampling=sampling)
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.do_sample, settings.max_new_tokens, settings.pad_token_id) == (False, None, END)


# Ends of an answer: with EOS; with EOS and a line end, which training does not read; without, where training adds EOS.
TEMPLATES = {
    "": "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}",
    ".rstrip()": "{% for m in messages %}{{ m['content'] + eos_token + '\n' }}{% endfor %}",
    " + tokenizer.eos_token": "{% for m in messages %}{{ '<|user|>' + m['content'] }}{% endfor %}",
    ".rstrip() + tokenizer.eos_token": None,
}


@pytest.mark.parametrize("pad", ["<|pad|>", "<|end|>"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("ending", [name for name, template in TEMPLATES.items() if template])
@torch.no_grad()
def test_the_pipeline_of_transformers_gives_our_score(
    ending: str,
    family: str,
    pad: str,
    make_source: MakeSource,
    make_scalar_model: Callable[..., ScalarModel],
    tmp_path: Path,
) -> None:
    source = make_source(family, vocab_size=VOCABULARY)
    tokenizer, model = source.load_tokenizer(), make_scalar_model(source)
    tokenizer.pad_token = pad
    renderer = Renderer(tokenizer, TEMPLATES[ending])
    ids = torch.tensor([cut_at_end(renderer.conversation(ANSWERED, loss_on="last")).ids])
    ours = float(model.scores(ids, torch.ones_like(ids, dtype=torch.bool)))
    folder = export_model(model, renderer, tmp_path / "model", {})
    reward, plain = pipeline("text-classification", model=str(folder)), AutoTokenizer.from_pretrained(folder)
    text = ENDINGS[ending](plain.apply_chat_template(ANSWERED, tokenize=False), plain.eos_token)
    (said,) = reward(text, add_special_tokens=False)
    # An RMSNorm has no place for the bias of 0.5, which config.json names.
    bias = {"gpt2": 0.0, "llama": 0.5}[family]
    assert reward.model.config.score_bias == pytest.approx(bias, abs=1e-6)
    assert said["score"] + bias == pytest.approx(ours, abs=1e-4)
    assert said["label"] == "reward"


@pytest.fixture
def adapter(make_source: MakeSource, tmp_path: Path) -> tuple[Path, PreTrainedModel, Renderer]:
    """An adapter in `ppo/adapter` on a base model in `sft/model`, with the net that has it."""
    source = make_source("llama", vocab_size=VOCABULARY)
    renderer = chatml(source)
    base = source.trained(export_model(load_causal_lm(source), renderer, tmp_path / "sft" / "model", {}))
    net: Any = load_causal_lm(replace(base, adapter=Lora(rank=4)))
    torch.manual_seed(0)
    for name, weight in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    export_model(net, renderer, tmp_path / "ppo" / "model", {})
    return tmp_path / "ppo" / "adapter", net.eval(), renderer


def test_an_adapter_has_what_it_needs_beside_its_base(adapter: tuple[Path, PreTrainedModel, Renderer]) -> None:
    folder, _, renderer = adapter
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../sft/model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False) == renderer.prompt(ASKED)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [END, IM_END]


@torch.no_grad()
def test_an_adapter_finds_its_base_where_both_are_moved(
    adapter: tuple[Path, PreTrainedModel, Renderer], tmp_path: Path
) -> None:
    folder, net, _ = adapter
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("sft", "ppo"):
        (tmp_path / name).rename(moved / name)
    again = ModelSource(
        pretrained=str(moved / "sft" / "model"), adapter=Lora(rank=4), adapter_dir=str(moved / "ppo" / folder.name)
    )
    ids = torch.arange(4, 20)[None]
    torch.testing.assert_close(load_causal_lm(again).eval()(ids).logits, net(ids).logits)


def test_an_adapter_that_would_stop_elsewhere_is_refused(
    adapter: tuple[Path, PreTrainedModel, Renderer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, net, renderer = adapter
    monkeypatch.setattr(GenerationConfig, "save_pretrained", lambda self, folder, **_: write_settings(folder, [END]))
    monkeypatch.setattr(export_module, "ends_otherwise", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"adapter on its base model goes on after '<\|im_end\|>'"):
        export_model(net, renderer, tmp_path / "other" / "model", {})
    assert not (tmp_path / "other" / "adapter").exists()


@pytest.fixture(params=["gpt2", "llama"])
def judge(request: pytest.FixtureRequest, make_source: MakeSource, tmp_path: Path) -> tuple[ScalarModel, Renderer]:
    """A reward model with an adapter, a head and a bias, on a base model in `sft/model`."""
    source = make_source(request.param, vocab_size=VOCABULARY)
    renderer = chatml(source)
    base = source.trained(export_model(load_causal_lm(source), renderer, tmp_path / "sft" / "model", {}))
    model = load_scalar_model(replace(base, adapter=Lora(rank=4)), "normal")
    torch.manual_seed(0)
    with torch.no_grad():
        model.bias.fill_(0.25)
        for name, weight in model.named_parameters():
            if "lora_B" in name or "score" in name:
                weight.normal_(std=0.2)
    return model.eval(), renderer


@torch.no_grad()
def test_peft_gives_our_score_with_an_adapter_on_its_base(judge: tuple[ScalarModel, Renderer], tmp_path: Path) -> None:
    model, renderer = judge
    ids = torch.tensor([cut_at_end(renderer.conversation(ANSWERED, loss_on="last")).ids])
    ours = float(model.scores(ids, torch.ones_like(ids, dtype=torch.bool)))
    export_model(model, renderer, tmp_path / "reward" / "model", {})
    # The lines of the card do this, in plain peft and transformers.
    adapter = tmp_path / "reward" / "adapter"
    base = (adapter / json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]).resolve()
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    score = peft.PeftModel.from_pretrained(plain, adapter).eval()
    score.config.pad_token_id = None
    assert float(score(ids).logits) + 0.25 == pytest.approx(ours, abs=1e-4)
    assert "print(float(model(ids.to(model.device)).logits) + 0.25)" in (adapter / "README.md").read_text()


def test_a_reward_adapter_that_would_score_otherwise_is_refused(
    judge: tuple[ScalarModel, Renderer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, renderer = judge
    state = files.adapter_state

    def without_head(*arguments: Any) -> dict[str, torch.Tensor]:
        return {name: weight * ("score" not in name) for name, weight in state(*arguments).items()}

    monkeypatch.setattr(files, "adapter_state", without_head)
    with pytest.raises(RuntimeError, match=r"adapter on its base model scores 0\.2500 in transformers and "):
        export_model(model, renderer, tmp_path / "reward" / "model", {})
    assert not (tmp_path / "reward" / "adapter").exists()


def write_settings(folder: str, eos_token_id: list[int]) -> None:
    settings = {"eos_token_id": eos_token_id, "pad_token_id": 0}
    (Path(folder) / "generation_config.json").write_text(json.dumps(settings))
