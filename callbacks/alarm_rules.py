"""The alarms of every stage, each with its rule, its meaning and its remedy; those of PPO are in `ppo_alarm_rules`.

No alarm rings in the healthy runs of the demo, and the default thresholds leave a margin above their values. `window`
counts iterations of PPO, optimizer steps for the gradient, and evaluations for metrics of held-out data.
"""

from math import isfinite
from statistics import fmean, median

from lightning_rlhf.callbacks.alarms import History, alarm
from lightning_rlhf.distributed.weight_movement import FEW, REMEDY


@alarm(
    (),
    threshold=0.0,
    window=1,
    meaning="the weights are lost, or will be with the next update",
    remedy="start again, or from an earlier checkpoint, with a lower learning rate or trainer.precision=32-true",
)
def not_finite(history: History, threshold: float, window: int) -> str | None:
    """The latest value of any metric is NaN or infinite; the threshold is not used."""
    bad = [f"{name} is {values[-1]}" for name, values in history.items() if not isfinite(values[-1])]
    return ", ".join(bad) or None


@alarm(
    ("train/grad_norm",),
    threshold=10.0,
    window=3,
    meaning="updates have become far larger than before, which clipping hides for a while",
    remedy="lower the learning rate, or lengthen its warm-up",
)
def gradient_explosion(history: History, threshold: float, window: int) -> str | None:
    """The gradient norm is above `threshold` times the median of the 20 to 50 updates before."""
    norms = history["train/grad_norm"]
    earlier = norms[:-window][-50:]
    if len(earlier) < 20 or min(norms[-window:]) <= threshold * median(earlier):
        return None
    return f"the gradient norm is {norms[-1]:.3g}, and its median before was {median(earlier):.3g}"


@alarm(
    ("train/moved_fraction",),
    threshold=FEW,
    window=1,
    meaning="most weights do not change: they have too few digits for steps of this size, or get no gradient",
    remedy=REMEDY,
)
def weights_stand_still(history: History, threshold: float, window: int) -> str | None:
    """An optimizer step has moved less than `threshold` of the trained weights; every 16th step is measured."""
    shares = history["train/moved_fraction"][-window:]
    return f"only {shares[-1]:.1%} of the trained weights moved in a step" if max(shares) < threshold else None


@alarm(
    ("step/loss", "val/loss"),
    threshold=0.001,
    window=3,
    meaning="the model learns nothing, unless it began at its best",
    remedy="raise the learning rate; adapters need about ten times that of the whole model",
)
def loss_stands_still(history: History, threshold: float, window: int) -> str | None:
    """Held-out loss stays within `threshold` (as a share) of its first value, and the training loss has not fallen.

    The training loss tells a model that learnt everything before the first evaluation from one that learnt nothing.
    """
    losses, steps = history["val/loss"], history["step/loss"]
    first, recent = losses[0], losses[-window:]
    few = max(1, min(10, len(steps) // 2))
    fallen = fmean(steps[:few]) - fmean(steps[-few:])
    if max(abs(loss - first) for loss in recent) > threshold * abs(first) or fallen > 0.01 * abs(first):
        return None
    return f"the held-out loss is {recent[-1]:.4g}, at first {first:.4g}"


@alarm(
    ("val/reward_accuracy", "val/longer_wins_accuracy", "val/shorter_wins_accuracy"),
    threshold=0.0,
    window=1,
    meaning="the length of the answers alone says as much about the preferences as the model does, or more",
    remedy="train longer or with another learning rate; check whether the pairs prefer anything but length",
)
def reward_below_length(history: History, threshold: float, window: int) -> str | None:
    """The reward accuracy is not above that of the better length rule by more than `threshold` (share of pairs)."""
    accuracy, longer, shorter = (
        history[f"val/{name}_accuracy"][-1] for name in ("reward", "longer_wins", "shorter_wins")
    )
    if accuracy > max(longer, shorter) + threshold:
        return None
    return f"the reward accuracy is {accuracy:.3g}, and that of a length rule is {max(longer, shorter):.3g}"
