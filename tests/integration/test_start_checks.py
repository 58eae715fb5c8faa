"""The checks at the start of real runs of tiny stages: sound runs pass, and others stop before they learn anything."""

import copy
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from support import tiny_source, trainer

from lightning_rlhf import TextReward, load_causal_lm, load_scalar_model
from lightning_rlhf.callbacks import StartChecks
from lightning_rlhf.callbacks.start_checks import checks_record
from lightning_rlhf.checks.probe import TEMPERATURE
from lightning_rlhf.data.encoding import PieceEncoder
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.build import LoadedReward, WeightedSum
from lightning_rlhf.rollout.engines.engine import Completion
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampling import Sampling

SOURCE = tiny_source()
ROWS = ["BOS", "vocabulary", "context length"]
LABELS = ["labels", "EOS in the labels"]
REWARD = ["reward model: padding", "reward model: last token"]
ROLLOUT = ["response mask", "sampler and scorer", "KL at the start", "KL penalty", "scores", "responses end"]
CHECKS = {
    "sft": {*LABELS, *ROWS},
    "reward": {*LABELS, *ROWS, *REWARD},
    "dpo": {*LABELS, *ROWS, "KL at the start"},
    "ppo": {*ROWS, *ROLLOUT, *REWARD, "critic: padding", "ratio at the start"},
}


def another(**settings: Any) -> Callable:
    """Returns a builder of a model that differs from that of the fixtures."""
    return partial(load_causal_lm, replace(SOURCE, **settings))


def stopped(tmp_path: Path, module: Any, data: Any, **settings: Any) -> str:
    """Returns the reason why a run stops, and checks that it has learnt nothing."""
    module.configure_model()
    before = copy.deepcopy(module.state_dict())
    fitted = trainer(tmp_path, StartChecks(), **settings)
    with pytest.raises(UserError) as caught:
        fitted.fit(module, data)
    assert fitted.global_step == 0
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, before[name]), name
    reason, *lines = str(caught.value).splitlines()
    assert reason == "stopped before the first update"
    return "\n".join(lines)


@pytest.mark.parametrize("stage", CHECKS)
def test_a_sound_run_passes_all_checks(stage: str, parts: Callable, tmp_path: Path) -> None:
    checks = StartChecks()
    fitted = trainer(tmp_path, checks, accumulate_grad_batches=2)
    fitted.fit(*parts(stage))
    assert fitted.global_step > 0
    assert checks.findings.keys() == CHECKS[stage]
    # The tiny model is random, and its responses do not end by themselves.
    assert {name for name, finding in checks.findings.items() if finding.status != "ok"} <= {"responses end"}


class Off(NativeEngine):
    """An engine that says other log-probs than those it draws with, at some temperatures."""

    def __init__(self, *arguments: Any, temperatures: tuple[float, ...]) -> None:
        super().__init__(*arguments)
        self.temperatures = temperatures

    def iterate(self, requests: Any, sampling: Sampling, **settings: Any) -> Iterator[Completion]:
        by = 0.01 if sampling.temperature in self.temperatures else 0.0
        for one in super().iterate(requests, sampling, **settings):
            yield one._replace(logprobs=[logprob - by for logprob in one.logprobs])


@pytest.mark.parametrize(("temperatures", "found"), [((TEMPERATURE,), "e-0"), ((TEMPERATURE, 1.0), "0.01")])
def test_the_sampler_is_compared_with_the_scorer_though_its_numbers_could_stand_in(
    temperatures: tuple[float, ...], found: str, parts: Callable, tmp_path: Path
) -> None:
    reason = stopped(tmp_path, *parts("ppo", engine=partial(Off, temperatures=temperatures)))
    differences = re.fullmatch(r"sampler and scorer: .* differ by (\S+) nats, and at temperature 2 by 0.01.*", reason)
    assert differences is not None
    assert found in differences[1]


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_an_end_that_the_template_does_not_bring_is_there_and_learnt(
    stage: str, parts: Callable, tmp_path: Path
) -> None:
    module, data = parts(stage)
    contents = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"
    module.renderer = data.renderer = Renderer(SOURCE.load_tokenizer(), contents)
    checks = StartChecks()
    trainer(tmp_path, checks, max_steps=1).fit(module, data)
    assert checks.findings["EOS in the labels"].status == "ok"


@pytest.mark.parametrize("stage", CHECKS)
def test_bf16_is_within_the_tolerance(stage: str, parts: Callable, tmp_path: Path) -> None:
    fitted = trainer(tmp_path, StartChecks(), precision="bf16-mixed", max_steps=1)
    fitted.fit(*parts(stage))
    assert fitted.global_step == 1


def test_dropout_in_the_actor_stops_ppo(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("ppo")
    module.builders["actor"] = another(dropout=0.1)
    told = stopped(tmp_path, module, data)
    assert told.startswith("ratio at the start: the log of the probability ratio is 0.")
    assert "set model.dropout=0" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("stage", ["ppo", "dpo"])
def test_a_reference_that_is_another_net_stops_the_run(stage: str, parts: Callable, tmp_path: Path) -> None:
    module, data = parts(stage)
    module.builders["reference"] = another(seed=2)
    told = stopped(tmp_path, module, data)
    assert told.startswith("KL at the start: log-probs of a token under actor and reference differ by 0.")
    assert len(told.splitlines()) == 1


def test_dpo_may_have_dropout(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("dpo")
    module.builders["actor"] = another(dropout=0.1)
    fitted = trainer(tmp_path, StartChecks(), max_steps=1)
    fitted.fit(module, data)
    assert fitted.global_step == 1


@pytest.mark.parametrize("stage", CHECKS)
def test_a_context_that_is_too_short_stops_the_run_before_anything_is_answered(
    stage: str, parts: Callable, tmp_path: Path
) -> None:
    module, data = parts(stage)
    short = replace(SOURCE, config={**(SOURCE.config or {}), "max_position_embeddings": 20})
    nets = {"net": "normal", "critic": "zero"} if stage in ("reward", "ppo") else {}
    for name in module.builders:
        module.builders[name] = (
            partial(load_scalar_model, short, nets[name]) if name in nets else partial(load_causal_lm, short)
        )
    told = stopped(tmp_path, module, data, num_sanity_val_steps=-1, limit_val_batches=1.0)
    assert told.startswith("context length: the longest ")
    assert "the models read 20; lower data.max_length" in told


@pytest.mark.parametrize(("stage", "prompts"), [("ppo", "val_prompts"), ("dpo", "prompts")])
def test_a_held_out_prompt_whose_answer_does_not_fit_stops_the_run(
    stage: str, prompts: str, parts: Callable, tmp_path: Path
) -> None:
    module, data = parts(stage)
    data.setup("fit")
    setattr(data, prompts, [getattr(data, prompts)[0]._replace(ids=[5] * 505)])
    told = stopped(tmp_path, module, data)
    assert told.startswith(
        "context length: the longest held-out prompt and 8 new tokens: 513 tokens; the models read 512"
    )


def test_ids_that_the_net_does_not_know_stop_the_run(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("sft")
    module.builders["net"] = partial(
        load_causal_lm, replace(SOURCE, config={**(SOURCE.config or {}), "vocab_size": 700})
    )
    assert stopped(tmp_path, module, data).startswith("vocabulary: the largest id is ")


def test_all_nets_of_a_sum_are_checked_each_in_its_own_tokens(parts: Callable, tmp_path: Path) -> None:
    # The vocabulary of this model is too small for the actor's ids, which it must not read.
    small = replace(SOURCE, config={**(SOURCE.config or {}), "vocab_size": 300, "max_position_embeddings": 200})
    reward = WeightedSum(
        {
            "first": load_scalar_model(SOURCE, "normal"),
            "own": LoadedReward(
                load_scalar_model(small, "normal"), CharacterRenderer(SOURCE.load_tokenizer(), "plain")
            ),
            "short": TextReward(lambda prompts, responses: [float(len(response)) for response in responses]),
        },
        {"first": 1.0, "own": 1.0, "short": 0.1},
    )
    checks = StartChecks()
    module, data = parts("ppo", reward=reward)
    trainer(tmp_path, checks).fit(module, data)
    names = {f"reward model {part}: {what}" for part in ("first", "own") for what in ("padding", "last token")}
    assert checks.findings.keys() == CHECKS["ppo"] - set(REWARD) | names


class CharacterRenderer(Renderer):
    """A renderer whose tokenizer uses the codes of characters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._encoder = CharacterEncoder(self.tokenizer)


class CharacterEncoder(PieceEncoder):
    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [
            [ord(character) % 300 for character in text.partition("<|end|>")[0]] + [3] * ("<|end|>" in text)
            for text in texts
        ]


def test_a_run_that_goes_on_is_not_stopped_though_it_has_left_its_reference(parts: Callable, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    first = StartChecks()
    trainer(tmp_path, first, checkpoint, max_epochs=1, enable_checkpointing=True).fit(*parts("ppo"))
    assert first.findings
    # Step 2 is within the first iteration, and step 4 is at its end.
    for step in (2, 4):
        module, data = parts("ppo")
        checks = StartChecks()
        trainer(tmp_path, checks, max_epochs=2).fit(module, data, ckpt_path=str(tmp_path / f"step={step}.ckpt"))
        assert checks.findings == first.findings


def test_the_record_of_a_run_has_each_check_with_what_it_found(parts: Callable, tmp_path: Path) -> None:
    checks = StartChecks()
    fitted = trainer(tmp_path, checks)
    fitted.fit(*parts("ppo"))
    recorded = checks_record(fitted)["checks"]
    assert {entry["check"] for entry in recorded} == CHECKS["ppo"]
    # Untrained weights let hardly any response end, which is a warning.
    assert [entry["check"] for entry in recorded if entry["status"] != "ok"] == ["responses end"]
    assert all(entry["found"] for entry in recorded)


def test_checks_that_are_not_fatal_collect(parts: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, data = parts("ppo")
    module.builders["actor"] = another(dropout=0.1)
    checks = StartChecks(fatal=False)
    fitted = trainer(tmp_path, checks)
    fitted.fit(module, data)
    assert fitted.global_step == 4
    assert [name for name, finding in checks.findings.items() if finding.status == "error"] == ["ratio at the start"]
    assert not [record for record in caplog.records if record.name.startswith("lightning_rlhf")]


def test_a_warning_is_said_once_and_stops_nothing(
    parts: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, data = parts("ppo", reward=TextReward(lambda prompts, responses: [1.0 for _ in responses]))
    with caplog.at_level(logging.WARNING, "lightning_rlhf"):
        trainer(tmp_path, StartChecks(), max_epochs=2).fit(module, data)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("scores: ")]
    assert said == [
        "scores: 1 for all of 16 responses; the model can learn nothing from equal scores: look at the reward source, "
        "or start from a better model"
    ]


class SecondRankDrops(pl.Callback):
    """Gives the actor of the second process dropout."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_rank == 1:
            for layer in pl_module.roles.actor.model.layers:
                layer.self_attn.attention_dropout = 0.1


class Wrote(pl.Callback):
    """Writes the finding of each process to a file."""

    def __init__(self, folder: Path, checks: StartChecks) -> None:
        self.folder, self.checks = folder, checks

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        finding = self.checks.findings["ratio at the start"]
        (self.folder / f"rank{trainer.global_rank}.txt").write_text("; ".join(finding))


def test_an_error_in_one_process_is_known_to_both_and_stops_them(parts: Callable, tmp_path: Path) -> None:
    def two_processes(*callbacks: pl.Callback) -> pl.Trainer:
        # If a process waits longer than this for the other, the test fails too.
        strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=60))
        return trainer(tmp_path, SecondRankDrops(), *callbacks, strategy=strategy, devices=2)

    with pytest.raises(Exception, match="stopped before the first update\nratio at the start"):
        two_processes(StartChecks()).fit(*parts("ppo"))
    checks = StartChecks(fatal=False)
    two_processes(checks, Wrote(tmp_path, checks)).fit(*parts("ppo"))
    found = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0].startswith("ratio at the start; error; ")
