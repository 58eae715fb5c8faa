"""ColossalAI's strategy in one process; tests/equivalence shows that several processes give the same numbers."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support import Recorder, trainer
from unit.strategies.colossalai.toy import BATCHES, Norms, Toy, alone, installed, weights

from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.colossalai import boost as colossalai_boost
from lightning_rlhf.strategies.colossalai.boost import REQUIREMENTS, hybrid_adam, import_colossalai
from lightning_rlhf.strategies.colossalai.checkpoint import is_colossalai_checkpoint, read_weights
from lightning_rlhf.strategies.colossalai.cpu import allowed_on
from lightning_rlhf.strategies.colossalai.strategy import ColossalAIStrategy
from lightning_rlhf.strategies.colossalai.zero import keep_changes

__all__ = ["alone"]
ROOT = Path(__file__).parents[4]


def fitted(folder: Path, strategy: Any = "auto", *callbacks: pl.Callback, **settings: Any) -> tuple[Toy, list[float]]:
    """Returns the module and the losses after training."""
    module, recorder = Toy(), Recorder()
    checkpoint = settings.pop("ckpt_path", None)
    # The rows come in the same order as without a strategy.
    fixed = {"use_distributed_sampler": False, "strategy": strategy}
    settings = {"max_epochs": 2, "gradient_clip_val": 5.0, **fixed, **settings}
    trainer(folder, recorder, *callbacks, **settings).fit(module, ckpt_path=checkpoint)
    return module, recorder.losses


@installed
@pytest.mark.parametrize("settings", [(1, "cuda"), (1, "cpu"), (2, "cuda"), (2, "cpu")])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_zero_trains_as_one_plain_process_does(settings: tuple[Any, ...], accumulate: int, tmp_path: Path) -> None:
    expected, losses = fitted(tmp_path, accumulate_grad_batches=accumulate)
    module, same = fitted(tmp_path, ColossalAIStrategy(*settings), accumulate_grad_batches=accumulate)
    assert same == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=1e-5, atol=1e-7)


@installed
def test_a_module_is_trained_twice(tmp_path: Path) -> None:
    plain, module = Toy(), Toy()
    for _ in range(2):
        trainer(tmp_path, use_distributed_sampler=False).fit(plain)
        trainer(tmp_path, use_distributed_sampler=False, strategy=ColossalAIStrategy(2)).fit(module)
    torch.testing.assert_close(module.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-7)


@installed
def test_the_norm_of_gradients_is_the_same_in_each_precision(tmp_path: Path) -> None:
    norms = {precision: Norms() for precision in ("32-true", "bf16-mixed", "16-mixed")}
    for precision, callback in norms.items():
        # The scale is so low that nothing overflows.
        fitted(tmp_path, ColossalAIStrategy(1, plugin={"initial_scale": 2.0**7}), callback, precision=precision)
        assert callback.norms == pytest.approx(norms["32-true"].norms, rel=0.1)


@installed
def test_gradients_are_clipped_and_their_norm_is_that_before(tmp_path: Path) -> None:
    norms, clipped = Norms(), Norms()
    free, _ = fitted(tmp_path, ColossalAIStrategy(2), norms, max_epochs=1, gradient_clip_val=None)
    bound, _ = fitted(tmp_path, ColossalAIStrategy(2), clipped, max_epochs=1, gradient_clip_val=1e-9)
    assert clipped.norms[0] == pytest.approx(norms.norms[0])
    assert norms.norms[0] > 1
    start = Toy()
    start.configure_model()
    moved = [float((net.net[0].weight - start.net[0].weight).norm()) for net in (free, bound)]
    # With Adam's epsilon of 1e-8, a gradient this small counts for little.
    assert moved[1] < 0.3 * moved[0]


@installed
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(precision: str, tmp_path: Path) -> None:
    make = partial(ColossalAIStrategy, 2)
    whole, losses = fitted(tmp_path / "whole", make(), max_epochs=3, precision=precision)
    saved = pl.callbacks.ModelCheckpoint(tmp_path, filename="end")
    fitted(tmp_path / "first", make(), saved, max_epochs=2, precision=precision, enable_checkpointing=True)
    resumed, rest = fitted(
        tmp_path / "rest", make(), max_epochs=3, precision=precision, ckpt_path=str(tmp_path / "end.ckpt")
    )
    assert rest == losses[-len(rest) :]
    assert len(rest) == len(BATCHES)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


@installed
def test_in_16_bits_small_steps_add_up_in_the_masters_which_are_what_training_leaves(tmp_path: Path) -> None:
    module = Toy(lr=1e-6, weight_decay=0.0)
    module.configure_model()
    before = weights(module)
    trainer(tmp_path, strategy=ColossalAIStrategy(1), precision="bf16-mixed", max_epochs=2).fit(module)
    after = weights(module)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    change = after["net.0.weight"] - before["net.0.weight"]
    assert 0 < change.abs().max() < 2e-5
    assert (change != 0).all()
    # If it were cast with the weights, it would be 1.
    assert after["net.frequencies"] == before["net.frequencies"]


@installed
def test_a_checkpoint_holds_what_changes_and_is_read_without_the_run(tmp_path: Path) -> None:
    saved = pl.callbacks.ModelCheckpoint(tmp_path, filename="end")
    module, _ = fitted(tmp_path, ColossalAIStrategy(1), saved, precision="bf16-mixed", enable_checkpointing=True)
    assert is_colossalai_checkpoint(tmp_path / "end.ckpt")
    assert not is_colossalai_checkpoint(tmp_path)
    read = read_weights(tmp_path / "end.ckpt")
    trained = {name: tensor for name, tensor in weights(module).items() if not name.startswith("frozen.")}
    torch.testing.assert_close(read, trained, rtol=0, atol=0)


@installed
def test_a_checkpoint_that_does_not_fit_the_run_is_refused(tmp_path: Path) -> None:
    saved = pl.callbacks.ModelCheckpoint(tmp_path, filename="end")
    fitted(tmp_path, ColossalAIStrategy(2), saved, enable_checkpointing=True)
    share = tmp_path / "end.ckpt" / "optimizer" / "process_0_of_1.pt"
    resume = partial(fitted, tmp_path / "rest", max_epochs=3)
    (tmp_path / "other.ckpt").touch()
    with pytest.raises(UserError, match="no ColossalAI strategy has written it"):
        resume(ColossalAIStrategy(2), ckpt_path=str(tmp_path / "other.ckpt"))
    share.rename(share.with_name("process_0_of_2.pt"))
    share.with_name("process_1_of_2.pt").touch()
    with pytest.raises(UserError, match="it was written by 2 processes, so this run of 1 "):
        resume(ColossalAIStrategy(2), ckpt_path=str(tmp_path / "end.ckpt"))
    fewer = {k: v.clone() for k, v in read_weights(tmp_path / "end.ckpt").items() if k != "net.scale"}
    torch.save(fewer, tmp_path / "end.ckpt" / "weights.pt")
    with pytest.raises(RuntimeError, match="do not fit Toy: missing: net.scale"):
        resume(ColossalAIStrategy(2), ckpt_path=str(tmp_path / "end.ckpt"))


class Writes(pl.Callback):
    """Doubles one weight when training ends, as `NormalizeReward` scales a head."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        with trainer.strategy.whole(pl_module.net, write=True), torch.no_grad():
            pl_module.net[2].weight.mul_(2)


@installed
def test_what_is_written_to_weights_stays_and_costs_the_others_no_digits(tmp_path: Path) -> None:
    saved = pl.callbacks.ModelCheckpoint(tmp_path, filename="end")
    make, settings = partial(ColossalAIStrategy, 2), {"precision": "bf16-mixed", "enable_checkpointing": True}
    plain = weights(fitted(tmp_path, make(), saved, **settings)[0])
    written = weights(fitted(tmp_path, make(), Writes(), **settings)[0])
    assert torch.equal(written["net.2.weight"], 2 * plain["net.2.weight"].bfloat16().float())
    assert torch.equal(written["net.0.weight"], plain["net.0.weight"])


def test_masters_take_over_what_was_written_only() -> None:
    master = torch.tensor([1.001, 2.001, 3.001])
    working = master.bfloat16()
    working[1] = 5.0
    keep_changes(working, master)
    assert master.tolist() == pytest.approx([1.001, 5.0, 3.001])


@installed
@pytest.mark.parametrize(
    ("strategy", "settings", "message"),
    [
        ({"stage": 3}, {}, "trainer.precision=32-true: Gemini computes in 16 bits only"),
        ({"stage": 3}, {"precision": "bf16-mixed"}, "stage=3 .* needs a GPU"),
        ({}, {"precision": "64-true"}, "trainer.precision=64-true: ColossalAIStrategy supports 32-true"),
        ({}, {"gradient_clip_algorithm": "value"}, "gradient_clip_algorithm=value: .* by norm only"),
        ({"plugin": {"reduce_bucket": 1}}, {}, "plugin.reduce_bucket: LowLevelZeroPlugin has no such setting"),
        ({"plugin": {"max_norm": 1.0}}, {}, "plugin.max_norm: the strategy sets it already"),
        ({"plugin": {"extra_dp_size": 2}}, {}, "plugin.extra_dp_size=2: .* remove it"),
        ({"plugin": {"master_weights": False}}, {}, "plugin.master_weights=False: .* fp32 master weights"),
        ({"plugin": {"overlap_communication": True}}, {}, "plugin.overlap_communication=True: a CPU has no stream"),
        ({"plugin": {"tp_size": 2}}, {}, "plugin.tp_size: LowLevelZeroPlugin has no such setting"),
    ],
)
def test_what_colossalai_cannot_do_is_refused(
    strategy: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fitted(tmp_path, ColossalAIStrategy(**strategy), **settings)


@installed
@pytest.mark.parametrize("key", ["tp_size", "extra_dp_size", "pp_size", "sp_size"])
def test_gemini_divides_among_all_processes(key: str) -> None:
    import_colossalai()
    from colossalai.booster.plugin import GeminiPlugin

    with pytest.raises(UserError, match=f"plugin.{key}"):
        colossalai_boost._check_settings({key: 2}, GeminiPlugin, {}, torch.device("cuda"))


@installed
def test_what_the_engines_can_follow_is_let_through() -> None:
    import_colossalai()
    from colossalai.booster.plugin import LowLevelZeroPlugin

    given = {"extra_dp_size": 1, "master_weights": True, "reduce_bucket_size_in_m": 64, "overlap_communication": True}
    colossalai_boost._check_settings(given, LowLevelZeroPlugin, {}, torch.device("cuda"))


class OnGPU(ColossalAIStrategy):
    """A strategy whose process has a GPU, as far as the choice of a backend is concerned."""

    @property
    def root_device(self) -> torch.device:
        return torch.device("cuda", 0)


@installed
@pytest.mark.parametrize(
    ("stage", "placement", "backend"),
    [
        (3, "cpu", "cpu:gloo,cuda:nccl"),
        (3, "auto", "cpu:gloo,cuda:nccl"),
        (3, "cuda", "nccl"),
        (2, "cpu", "nccl"),
    ],
)
def test_shards_that_rest_in_the_memory_of_the_cpu_have_a_backend_there(
    stage: Any, placement: Any, backend: str
) -> None:
    assert OnGPU(stage, placement)._get_process_group_backend() == backend
    assert OnGPU(stage, placement, process_group_backend="gloo")._get_process_group_backend() == "gloo"
    strategy = ColossalAIStrategy(stage, placement)
    strategy.parallel_devices = [torch.device("cpu")]
    assert strategy._get_process_group_backend() == "gloo"


@installed
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4,), "stage=4 must be 1, 2 or 3"),
        ((2, "auto"), "auto with stage=3"),
        ((3, "gpu"), "placement_policy=gpu must be"),
    ],
)
def test_an_impossible_value_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ColossalAIStrategy(*arguments)


@installed
def test_a_step_without_loss_is_refused_since_others_would_wait(tmp_path: Path) -> None:
    module = Toy()
    module.training_step = lambda batch, batch_idx: None  # type: ignore[method-assign]
    with pytest.raises(UserError, match="training_step returned None"):
        trainer(tmp_path, strategy=ColossalAIStrategy(2), max_epochs=1).fit(module)


@installed
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="with a GPU the optimizer finds its kernel, and nothing is refused"
)
def test_the_optimizer_of_gemini_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="optim=hybrid_adam is for Gemini, on a machine with a GPU"):
        hybrid_adam([torch.nn.Parameter(torch.ones(2))])


def test_where_colossalai_is_missing_the_message_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colossalai_boost, "find_spec", lambda name: None if name == "galore_torch" else name)
    for wanted in (ColossalAIStrategy, partial(hybrid_adam, [])):
        with pytest.raises(
            UserError, match="needs galore_torch, .* make colossalai, or pip install --no-deps colossalai"
        ):
            wanted()


def test_the_file_to_install_from_and_the_message_bring_the_same() -> None:
    lines = (ROOT / "requirements" / "colossalai.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if not line.startswith("#")} == set(REQUIREMENTS.values())


@installed
def test_only_on_a_cpu_anything_is_replaced_in_colossalai_and_only_while_it_is_needed() -> None:
    import_colossalai()
    from colossalai.zero import LowLevelZeroOptimizer

    check = LowLevelZeroOptimizer._sanity_checks
    with allowed_on(torch.device("cuda")):
        assert LowLevelZeroOptimizer._sanity_checks is check
    with allowed_on(torch.device("cpu")):
        assert LowLevelZeroOptimizer._sanity_checks is not check
    assert LowLevelZeroOptimizer._sanity_checks is check
