"""The plots of a run card: which metrics share a picture, and what a healthy run looks like."""

from dataclasses import dataclass
from typing import Literal

Ink = Literal["accent", "contrast", "muted"]
# Each colour has one meaning on the whole page: training, held-out prompts, or anything secondary.
TRAINING: Ink = "accent"
HELD_OUT: Ink = "contrast"
SECOND: Ink = "muted"


@dataclass(frozen=True)
class Line:
    """One metric in a plot. `spread` names a metric that is drawn around the line as a band of plus and minus."""

    column: str
    label: str
    ink: Ink
    dashed: bool = False
    spread: str | None = None


@dataclass(frozen=True)
class Plot:
    """One picture.

    `percent` shows shares as percentages, and `from_zero` starts the y axis at zero. `against` names the metric of the
    x axis, if that is not training time. `levels` are final metrics that are drawn as horizontal lines, with their
    labels. `health` places the picture next to the alarms.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    caption: str
    percent: bool = False
    from_zero: bool = False
    against: str | None = None
    levels: tuple[tuple[str, str], ...] = ()
    health: bool = False


PLOTS = (
    Plot(
        "Loss",
        "nats",
        (Line("train/loss", "training", TRAINING), Line("val/loss", "held-out", HELD_OUT)),
        "Both fall and level off together; a held-out loss that turns up means overfitting.",
    ),
    Plot(
        "Perplexity",
        "perplexity",
        (Line("val/perplexity", "held-out", HELD_OUT),),
        "Falls fast, then flattens; more steps past the flat part buy nothing.",
    ),
    Plot(
        "Reward accuracy",
        "share of held-out pairs",
        (Line("val/reward_accuracy", "held-out", HELD_OUT),),
        "Climbs clear of the dashed length rules; on top of one, it has only learned to measure length.",
        percent=True,
        from_zero=True,
        levels=(("longer_wins_accuracy", "“longer wins”"), ("shorter_wins_accuracy", "“shorter wins”")),
    ),
    Plot(
        "Implicit reward",
        "nats, times beta",
        (Line("val/chosen_reward", "chosen", HELD_OUT), Line("val/rejected_reward", "rejected", SECOND)),
        "The two separate; both may fall, as long as the rejected one falls faster.",
    ),
    Plot(
        "Log-probability of chosen answers",
        "nats per response",
        (Line("val/chosen_logprob", "held-out", HELD_OUT),),
        "Falls a little; a steep fall means that probability moves to answers that are in no pair.",
    ),
    Plot(
        "Reward-model score",
        "score",
        (
            Line("rollout/score_mean", "rollouts, ±1 std", TRAINING, spread="rollout/score_std"),
            Line("val/score", "held-out", HELD_OUT),
        ),
        "Rises steadily and then flattens, with the held-out prompts close behind.",
    ),
    Plot(
        "Gold rule",
        "share of held-out prompts",
        (Line("val/gold_rate", "gold rate", HELD_OUT), Line("val/gold_win_rate", "wins over the start model", SECOND)),
        "Rises with the score; a score that climbs while this falls is reward hacking.",
        percent=True,
        from_zero=True,
    ),
    Plot(
        "What the KL bought",
        "gold rate",
        (Line("val/gold_rate", "held-out", HELD_OUT),),
        "Goes up first, then right: each nat away from the start model should buy something.",
        percent=True,
        from_zero=True,
        against="val/kl",
    ),
    Plot(
        "KL to the start model",
        "nats per response",
        (
            Line("rollout/kl", "k1", TRAINING),
            Line("rollout/kl_k2", "k2", SECOND),
            Line("rollout/kl_k3", "k3", SECOND, dashed=True),
            Line("val/kl", "held-out", HELD_OUT),
        ),
        "Grows slowly and stays bounded; the three estimators agree while the policy is near its start.",
        health=True,
    ),
    Plot(
        "KL coefficient",
        "score per nat",
        (Line("rollout/kl_coef", "coefficient", TRAINING),),
        "Flat if fixed; if adaptive, it settles once the KL is at its target.",
    ),
    Plot(
        "Entropy",
        "nats per token",
        (Line("rollout/entropy", "rollouts", TRAINING), Line("train/entropy", "updates", SECOND, dashed=True)),
        "Declines gently; a fall to zero means that the policy has collapsed onto a few answers.",
        health=True,
    ),
    Plot(
        "Response length",
        "tokens",
        (Line("rollout/response_length", "rollouts", TRAINING), Line("val/response_length", "held-out", HELD_OUT)),
        "Finds a level of its own; steady growth often means that the reward pays for length.",
        health=True,
    ),
    Plot(
        "Answers that end by themselves",
        "share with an end token",
        (Line("rollout/eos_rate", "rollouts", TRAINING), Line("val/eos_rate", "held-out", HELD_OUT)),
        "Close to 100%; a drop means answers that run into the length limit.",
        percent=True,
        from_zero=True,
        health=True,
    ),
    Plot(
        "Variety",
        "different by all n-grams",
        (Line("rollout/distinct_1", "single tokens", SECOND), Line("rollout/distinct_2", "pairs", TRAINING)),
        "Declines as answers become alike; a steep fall means that they repeat themselves.",
        from_zero=True,
        health=True,
    ),
    Plot(
        "Policy loss",
        "clipped objective",
        (Line("train/policy_loss", "updates", TRAINING),),
        "Hovers slightly below zero; its level says little, sudden jumps say a lot.",
    ),
    Plot(
        "Value loss",
        "squared error",
        (Line("train/value_loss", "updates", TRAINING),),
        "Falls early, then follows the reward as it moves.",
    ),
    Plot(
        "Explained variance",
        "1 = perfect critic",
        (Line("rollout/explained_variance", "rollouts", TRAINING),),
        "Climbs from around 0 towards 1; below 0 the critic is worse than a constant.",
        health=True,
    ),
    Plot(
        "Clip fraction",
        "share of tokens",
        (Line("train/clip_fraction", "updates", TRAINING),),
        "Roughly 5–20%: at 0% the steps are timid, far above they are too large.",
        percent=True,
        from_zero=True,
        health=True,
    ),
    Plot(
        "Gradient norm",
        "norm before clipping",
        (Line("train/grad_norm", "updates", TRAINING),),
        "Stays within one order of magnitude; a lasting rise means updates that are too large.",
        from_zero=True,
        health=True,
    ),
    Plot(
        "Groups without a signal",
        "share of groups",
        (Line("rollout/zero_variance_groups", "rollouts", TRAINING),),
        "Groups whose responses all have one score teach nothing; near 100% the update is empty.",
        percent=True,
        from_zero=True,
        health=True,
    ),
    Plot(
        "Policy step size",
        "approx. KL per update, nats",
        (Line("train/approx_kl", "updates", TRAINING),),
        "Small and even; spikes are updates that left the trust region.",
    ),
    Plot(
        "Learning rate",
        "learning rate",
        (
            Line("lr-AdamW", "all weights", TRAINING),
            Line("lr-AdamW/pg1", "first group", TRAINING),
            Line("lr-AdamW/pg2", "second group", SECOND),
        ),
        "Follows the schedule that you set: warm-up, then decay.",
    ),
    Plot(
        "Throughput",
        "tokens per second",
        (Line("perf/tokens_per_second", "tokens/s", TRAINING),),
        "Level; a slow decline comes with longer answers, a sudden one from the machine.",
        from_zero=True,
    ),
    Plot(
        "Arithmetic speed",
        "TFLOP/s",
        (Line("perf/tflops", "TFLOP/s", TRAINING),),
        "Level; compare it with the peak of the device to see the headroom.",
        from_zero=True,
    ),
    Plot(
        "Time per iteration",
        "seconds",
        (Line("perf/rollout_seconds", "rollouts", TRAINING), Line("perf/update_seconds", "updates", SECOND)),
        "Level; rollouts usually cost more than updates.",
        from_zero=True,
    ),
    Plot(
        "Peak memory",
        "GiB",
        (Line("perf/peak_gib", "peak", TRAINING),),
        "Flat after the first iterations; growth without end is a leak.",
        from_zero=True,
    ),
)
