"""The card of an export: a header for the hub, what the model is made of, and code that runs as it stands."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from meta_llama import LLAMA_1, write_checkpoint
from transformers import AutoTokenizer, PreTrainedModel

from lightning_rlhf.data.fields import Message
from lightning_rlhf.data.pairs import cut_at_end
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.meta.convert import converted
from lightning_rlhf.models.model_card import FOLDER, model_card
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.models.training_record import TrainingRecord, hub_model, records_of
from lightning_rlhf.models.usage import Usage
from lightning_rlhf.rollout.sampling import Sampling

MakeSource = Callable[..., ModelSource]
VOCABULARY = 820
# The question and the answer in the code of a card.
HELLO = [Message(role="user", content="Hello!"), Message(role="assistant", content="Hi, how can I help?")]
SFT: TrainingRecord = {
    "stage": "sft",
    "base_model": "some/base",
    "data": [{"use": "train", "name": "some/data", "hub": True, "rows": 12}],
    "settings": {"lr": 1e-5},
    "metrics": [
        {"name": "loss", "label": "Loss", "value": 1.5, "shown": "1.5", "before": None, "note": "in nats | held-out"},
        {"name": "perplexity", "label": "Perplexity", "value": None, "shown": "NaN", "before": "9.1", "note": ""},
    ],
}


def run(folder: Path) -> dict[str, Any]:
    """Runs all Python code of a card, one block after the other, and returns its variables."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    variables: dict[str, Any] = {}
    torch.manual_seed(0)
    exec("\n".join(blocks).replace(FOLDER, str(folder)), variables)
    return variables


def rendered(training: list[TrainingRecord], **settings: Any) -> tuple[dict[str, Any], str]:
    """The header of a card as the hub reads it, and its text."""
    usage = Usage(reward_model=False)
    arguments: dict[str, Any] = {"base": "some/base", "lines": usage.of_model(FOLDER), "reward_model": False}
    card = ModelCard(model_card(training=training, **(arguments | settings)))
    return card.data.to_dict(), card.text


def test_the_header_is_what_the_hub_reads() -> None:
    header, text = rendered([SFT])
    assert header["base_model"] == "some/base"
    assert (header["base_model_relation"], header["library_name"]) == ("finetune", "transformers")
    assert (header["pipeline_tag"], header["datasets"]) == ("text-generation", ["some/data"])
    assert {"lightning-rlhf", "sft"} <= set(header["tags"])
    (results,) = header["model-index"][0]["results"]
    # The perplexity was not finite, which a header cannot contain as a number.
    assert [(metric["type"], metric["value"]) for metric in results["metrics"]] == [("loss", 1.5)]
    assert "| Loss |  | 1.5 | in nats \\| held-out |" in text
    assert "| Perplexity | 9.1 | NaN |  |" in text
    assert "| some/data | train | 12 |" in text
    assert "lr: 1.0e-05" in text
    assert "vllm serve path/to/this/folder" in text


def test_the_header_names_what_is_on_the_hub_and_the_metrics_of_the_last_stage() -> None:
    own: TrainingRecord = {**SFT, "stage": "ppo", "data": [{"use": "train", "name": "rows.jsonl", "hub": False}]}
    own["metrics"] = [{**SFT["metrics"][0], "name": "score", "value": 2.5}]
    header, text = rendered([SFT, own], adapter=True, notes=["The weights are averages."])
    assert header["datasets"] == ["some/data"]
    assert "| rows.jsonl | train |  |" in text
    (results,) = header["model-index"][0]["results"]
    assert [(metric["type"], metric["value"]) for metric in results["metrics"]] == [("score", 2.5)]
    assert (header["base_model_relation"], header["library_name"]) == ("adapter", "peft")
    assert header["tags"][2:] == ["sft", "ppo", "lora"]
    assert "\nThe weights are averages.\n" in text


def test_the_model_on_the_hub_is_found_through_the_folders_that_came_of_it(tmp_path: Path) -> None:
    for name, base in {"sft": "some/base", "ppo": "../sft"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "lightning_rlhf.json").write_text(json.dumps({"base_model": base}))
    assert hub_model(str(tmp_path / "ppo")) == "some/base"
    # No name of a model on the hub has two slashes.
    assert hub_model("models/of/mine") is None
    (tmp_path / "sft" / "lightning_rlhf.json").write_text("{")
    assert hub_model(str(tmp_path / "ppo")) is None


def test_the_licence_is_left_to_the_user_unless_the_base_model_names_it(tmp_path: Path) -> None:
    header, text = rendered([SFT])
    assert "license" not in header
    assert "Not chosen yet" in text
    assert "# license: " in model_card(
        base=None, training=[], lines=Usage(reward_model=False).of_model(FOLDER), reward_model=False
    )
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n# Base\n")
    header, text = rendered([SFT], base=str(tmp_path))
    assert (header["license"], header["license_name"]) == ("other", "mine")
    assert "`other`, the licence of the base model" in text
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    header, text = rendered([SFT], base=str(tmp_path))
    assert "Not chosen yet" in text


@pytest.mark.parametrize("told", [7, ["sft"], [{"stage": "sft"}], [{**SFT, "metrics": [{"name": "loss"}]}]])
def test_a_manifest_that_tells_something_else_is_passed_over(told: object, tmp_path: Path) -> None:
    (tmp_path / "lightning_rlhf.json").write_text(json.dumps({"training": told}))
    assert records_of([tmp_path, "some/base"]) == []


def test_each_stage_is_told_once(tmp_path: Path) -> None:
    for name in ("policy", "reward"):
        (tmp_path / name).mkdir()
        told = [SFT, {**SFT, "stage": name}]
        (tmp_path / name / "lightning_rlhf.json").write_text(json.dumps({"training": told}))
    stages = [record["stage"] for record in records_of([tmp_path / "policy", tmp_path / "reward"])]
    assert stages == ["sft", "policy", "reward"]


def test_paths_of_this_machine_do_not_leave_the_house(
    make_source: MakeSource, make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    source = make_source("llama", vocab_size=VOCABULARY)
    renderer = Renderer(source.load_tokenizer())
    first = export_model(make_causal_lm(source), renderer, tmp_path / "sft" / "model", {"training": [SFT]})
    second = export_model(
        load_causal_lm(source.trained(first)), renderer, tmp_path / "ppo" / "model", {"training": [SFT, SFT]}
    )
    manifest = json.loads((second / "lightning_rlhf.json").read_text())
    assert manifest["base_model"] == "../../sft/model"
    for file in ("README.md", "lightning_rlhf.json", "config.json"):
        assert str(tmp_path) not in (second / file).read_text(encoding="utf-8"), file


def test_the_code_of_a_language_model_chats(
    make_source: MakeSource, make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    source = make_source("llama", vocab_size=VOCABULARY)
    renderer = Renderer(source.load_tokenizer())
    sampling = Sampling(max_new_tokens=5).generation_settings(limited=True)
    folder = export_model(make_causal_lm(source), renderer, tmp_path / "model", {}, sampling=sampling)
    said = run(folder)
    prompt = renderer.prompt(HELLO[:1])
    assert said["output"][0, : len(prompt)].tolist() == prompt
    assert 1 <= said["output"].shape[1] - len(prompt) <= 5


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ '<|user|>' + m['content'] }}{% endfor %}"])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_the_code_of_a_reward_model_gives_our_score(
    family: str,
    adapted: bool,
    template: str | None,
    make_source: MakeSource,
    make_causal_lm: Callable[..., PreTrainedModel],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = make_source(family, vocab_size=VOCABULARY)
    renderer = Renderer(source.load_tokenizer(), template)
    base = source.trained(export_model(make_causal_lm(source), renderer, tmp_path / "sft" / "model", {}))
    torch.manual_seed(0)
    model: ScalarModel = load_scalar_model(replace(base, adapter=Lora(rank=2) if adapted else None), "normal").eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.bias.fill_(0.5)
    ids = torch.tensor([cut_at_end(renderer.conversation(HELLO, loss_on="last")).ids])
    ours = float(model.scores(ids, torch.ones_like(ids, dtype=torch.bool)))
    folder = export_model(model, renderer, tmp_path / "reward" / "model", {})
    for place in [folder, folder.with_name("adapter")] if adapted else [folder]:
        capsys.readouterr()
        run(place)
        assert float(capsys.readouterr().out) == pytest.approx(ours, abs=1e-4), place


def test_the_code_of_an_adapter_chats(
    make_source: MakeSource, make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    source = make_source("llama", vocab_size=VOCABULARY)
    renderer = Renderer(source.load_tokenizer(), stop_ids=[100])
    base = source.trained(export_model(make_causal_lm(source), renderer, tmp_path / "sft" / "model", {}))
    export_model(load_causal_lm(replace(base, adapter=Lora(rank=2))), renderer, tmp_path / "ppo" / "model", {})
    said = run(tmp_path / "ppo" / "adapter")
    assert type(said["model"]).__name__ == "PeftModelForCausalLM"
    assert said["model"].generation_config.eos_token_id == [3, 100]
    header = ModelCard.load(tmp_path / "ppo" / "adapter" / "README.md").data.to_dict()
    assert header["library_name"] == "peft"


def test_a_converted_model_has_a_card_and_a_padding_token(tmp_path: Path) -> None:
    (tmp_path / "7B").mkdir()
    write_checkpoint(tmp_path / "7B", LLAMA_1)
    folder = converted(str(tmp_path / "7B"), "model.meta_dir")
    card = ModelCard.load(folder / "README.md")
    assert "converted it from `7B`, a folder with Meta's original weights" in card.text
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings["pad_token_id"] == AutoTokenizer.from_pretrained(folder).eos_token_id
