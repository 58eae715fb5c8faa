"""Reward models and critics: how heads start, and what a folder contains; see test_invariances.py for the tokens."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import ScalarModel, load_reward_model, load_scalar_model
from lightning_rlhf.models.source import ModelSource

MakeSource = Callable[..., ModelSource]
MakeScalarModel = Callable[..., ScalarModel]
MakeSequences = Callable[..., Sequences]
PROMPTS = [[11, 12, 13, 14], [7], [21, 7, 2]]
RESPONSES = [[30], [31, 7, 33, 2], [34, 35, 2]]


def test_a_normal_head_has_the_published_spread(make_source: MakeSource) -> None:
    # Some OPT models have a last projection, so the head reads another width than that of the layers.
    torch.manual_seed(0)
    model = load_scalar_model(make_source("opt", word_embed_proj_dim=1024), "normal")
    # With 1024 draws, the error of the estimate is about 2%.
    assert model.head.weight.std().item() == pytest.approx(1025**-0.5, rel=0.08)
    assert model.bias.item() == 0


def test_a_zero_head_gives_zero_values(source: ModelSource, make_sequences: MakeSequences) -> None:
    values = load_scalar_model(source, "zero").values(make_sequences(PROMPTS, RESPONSES))
    assert_close(values, torch.zeros(3, 4))


def test_a_folder_without_a_head_is_not_a_trained_reward_model(
    source: ModelSource, make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    make_causal_lm(source).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} is not a trained reward model: .*score.weight"):
        load_reward_model(str(tmp_path))


def test_a_new_head_stands_on_the_backbone_of_the_folder(
    source: ModelSource, make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    net = make_causal_lm(source)
    net.save_pretrained(tmp_path)
    model = load_scalar_model(source.trained(tmp_path), "normal")
    assert_close(dict(model.net.base_model.named_parameters()), dict(net.base_model.named_parameters()), rtol=0, atol=0)


@torch.no_grad()
def test_normalize_gives_the_same_data_mean_0_and_deviation_1(
    source: ModelSource, make_scalar_model: MakeScalarModel, make_sequences: MakeSequences
) -> None:
    model = make_scalar_model(source)
    sequences = make_sequences([[id_, id_ + 1] for id_ in range(3, 43)], [[2]] * 40)
    before = model.scores(sequences.input_ids, sequences.attention_mask)
    model.normalize(before)
    after = model.scores(sequences.input_ids, sequences.attention_mask)
    assert_close(after, (before - before.mean()) / before.std(correction=0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scores", [[3.0], [3.0, 3.0, 3.0], [float("nan"), 1.0]])
def test_scores_without_spread_cannot_be_normalised(
    make_source: MakeSource, make_scalar_model: MakeScalarModel, scores: list[float]
) -> None:
    model = make_scalar_model(make_source())
    with pytest.raises(UserError, match=f"{len(scores)} reference samples"):
        model.normalize(torch.tensor(scores))


@torch.no_grad()
def test_lost_weights_are_not_exported(source: ModelSource, make_scalar_model: MakeScalarModel, tmp_path: Path) -> None:
    model = make_scalar_model(source)
    model.head.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="1 weights such as .* are not finite: nothing is written"):
        export_model(model, Renderer(source.load_tokenizer()), tmp_path / "reward", {})
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_an_export_gives_the_same_scores_here_and_in_transformers(
    source: ModelSource, make_scalar_model: MakeScalarModel, make_sequences: MakeSequences, tmp_path: Path
) -> None:
    model = make_scalar_model(source)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    folder = export_model(model, Renderer(source.load_tokenizer()), tmp_path / "reward", {})
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    sequences = make_sequences(PROMPTS, RESPONSES)
    scores = model.scores(sequences.input_ids, sequences.attention_mask)

    reloaded = load_reward_model(str(folder)).eval()
    assert_close(reloaded.scores(sequences.input_ids, sequences.attention_mask), scores, atol=1e-5, rtol=1e-5)
    # An RMSNorm, which of all six families only Llama has, has no place for the bias.
    left = 0.5 if model.hf_config.model_type == "llama" else 0.0
    assert reloaded.bias.item() == pytest.approx(left, abs=1e-6)
    assert json.loads((folder / "lightning_rlhf.json").read_text())["score_bias"] == reloaded.hf_config.score_bias

    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for prompt, response, score in zip(PROMPTS, RESPONSES, scores, strict=True):
        row = torch.tensor([prompt + response])
        assert_close(plain(row, attention_mask=torch.ones_like(row)).logits[0, 0], score - left, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"config": {"word_embed_proj_dim": 16}}])
def test_a_bias_for_which_there_is_no_place_stays_in_the_configuration(
    settings: dict[str, Any], make_source: MakeSource, make_scalar_model: MakeScalarModel, tmp_path: Path
) -> None:
    # The second model has a projection between its last norm and its head.
    source = make_source("opt", **settings.get("config", {}))
    model = make_scalar_model(replace(source, dtype=settings.get("dtype", "float32")))
    folder = export_model(model, Renderer(source.load_tokenizer()), tmp_path / "reward", {})
    assert load_reward_model(str(folder)).bias.item() == 0.5


def test_an_export_replaces_the_folder_and_leaves_no_part_behind(
    make_source: MakeSource, make_scalar_model: MakeScalarModel, tmp_path: Path
) -> None:
    source, folder = make_source(), tmp_path / "reward"
    folder.mkdir()
    (folder / "old").write_text("old")
    export_model(make_scalar_model(source), Renderer(source.load_tokenizer()), folder, {})
    assert [path.name for path in tmp_path.iterdir()] == ["reward"]
    assert not (folder / "old").exists()


def test_a_net_of_which_transformers_has_no_scalar_form_is_one_clear_error(make_source: MakeSource) -> None:
    source = ModelSource(
        config={"model_type": "codegen", "n_layer": 1, "n_head": 4, "n_embd": 32, "rotary_dim": 4, "vocab_size": 64},
        tokenizer=make_source().tokenizer,
    )
    with pytest.raises(UserError, match="model_type=codegen"):
        load_scalar_model(source, "normal")


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_keep_their_digits_under_autocast_and_with_weights_in_16_bits(
    dtype: str, source: ModelSource, make_scalar_model: MakeScalarModel
) -> None:
    """In bf16, the head gave 800 rows only about 300 different scores."""
    model = make_scalar_model(replace(source, dtype=dtype))
    ids = torch.randint(3, 64, (800, 6), generator=torch.manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        scores = model.scores(ids, torch.ones_like(ids, dtype=torch.bool))
    assert scores.dtype == torch.float32
    assert len(scores.unique()) > 790
