"""The plots next to the alarms, and those next to the costs."""

from lightning_rlhf.report.plots import HELD_OUT, SECOND, TRAINING, Ink, Line, Plot
from lightning_rlhf.report.run import Stage


def health_plots(stage: Stage) -> list[Plot]:
    """The plots of the health and of the speed of a stage, of which those that were logged are drawn."""
    return [_kl(stage), _length(stage), *_POLICY, _gradient_norm(stage), _learning_rate(stage), *_SPEED, _time(stage)]


def _kl(stage: Stage) -> Plot:
    estimators = "; the three estimators agree while the policy is near its start" if stage.record.samples else ""
    return Plot(
        "KL to the start model",
        "nats per response",
        (
            Line("rollout/kl", "k1", TRAINING),
            Line("rollout/kl_k2", "k2", SECOND),
            Line("rollout/kl_k3", "k3", SECOND, dashed=True),
            Line("val/kl", "held-out", HELD_OUT),
        ),
        f"Grows slowly and stays bounded{estimators}.",
        place="health",
    )


def _length(stage: Stage) -> Plot:
    caption = {
        "sft": "Approaches the length of the demonstrations.",
        "dpo": "Finds a level of its own; steady growth often means that the longer answers win the pairs.",
    }.get(stage.name, "Finds a level of its own; steady growth often means that the reward pays for length.")
    return Plot(
        "Response length",
        "tokens",
        (Line("rollout/response_length", "rollouts", TRAINING), Line("val/response_length", "held-out", HELD_OUT)),
        caption,
        place="health",
    )


_POLICY = (
    Plot(
        "Entropy",
        "nats per token",
        (Line("rollout/entropy", "rollouts", TRAINING), Line("train/entropy", "updates", SECOND, dashed=True)),
        "Declines gently; a fall to zero means that the policy has collapsed onto a few answers.",
        place="health",
    ),
    Plot(
        "Answers that end by themselves",
        "share with an end token",
        (Line("rollout/eos_rate", "rollouts", TRAINING), Line("val/eos_rate", "held-out", HELD_OUT, share=True)),
        "Close to 100%; a drop means answers that run into the length limit.",
        percent=True,
        place="health",
    ),
    Plot(
        "Variety",
        "different by all n-grams",
        (Line("rollout/distinct_1", "single tokens", SECOND), Line("rollout/distinct_2", "pairs", TRAINING)),
        "Declines as answers become alike; a steep fall means that they repeat themselves.",
        from_zero=True,
        place="health",
    ),
    Plot(
        "Explained variance",
        "1 = perfect critic",
        (Line("rollout/explained_variance", "rollouts", TRAINING),),
        "Climbs from around 0 towards 1; below 0 the critic is worse than a constant.",
        place="health",
    ),
    Plot(
        "Clip fraction",
        "share of tokens",
        (Line("train/clip_fraction", "updates", TRAINING),),
        "Roughly 5–20%: at 0% the steps are timid, far above they are too large.",
        percent=True,
        from_zero=True,
        place="health",
    ),
    Plot(
        "Groups without a signal",
        "share of groups",
        (Line("rollout/zero_variance_groups", "rollouts", TRAINING),),
        "Groups whose responses all have one score teach nothing; near 100% the update is empty.",
        percent=True,
        from_zero=True,
        place="health",
    ),
)


def _gradient_norm(stage: Stage) -> Plot:
    return Plot(
        "Gradient norm",
        "norm before clipping",
        _by_group(stage, "train/grad_norm"),
        "Stays within one order of magnitude; a lasting rise means updates that are too large.",
        from_zero=True,
        settles=True,
        place="health",
    )


def _learning_rate(stage: Stage) -> Plot:
    return Plot(
        "Learning rate",
        "learning rate",
        # The second name is that of Lightning's LearningRateMonitor.
        _by_group(stage, "train/lr") or _by_group(stage, "lr-AdamW"),
        "Follows the schedule that you set, such as a warm-up and then a decay.",
        from_zero=True,
        place="health",
    )


def _by_group(stage: Stage, name: str) -> tuple[Line, ...]:
    """The line of all weights, and those of groups of weights that differ, such as `train/grad_norm_actor`.

    A line that is equal to that of a group is named after the group if there are others: `train/lr` of PPO is the
    learning rate of the actor.
    """
    lines: dict[bytes, list[tuple[str, str]]] = {}
    styles: list[tuple[Ink, bool]] = [(TRAINING, False), (SECOND, False), (SECOND, True)]
    for column in sorted(stage.series):
        group = column.removeprefix(name)
        if column.startswith(name) and group[:1] in ("", *"_-/"):
            label = group.strip("_-/").replace("_", " ") or "all weights"
            lines.setdefault(stage.series[column].y.tobytes(), []).append((column, label))
    named = 0 if len(lines) == 1 else -1
    return tuple(Line(*same[named], *style) for same, style in zip(lines.values(), styles, strict=False))


def _time(stage: Stage) -> Plot:
    rollouts = "rollouts usually cost more than updates" if stage.record.samples else "evaluations are no part of it"
    return Plot(
        f"Time per {stage.record.unit}",
        "seconds",
        (
            Line("perf/rollout_seconds", "rollouts", TRAINING),
            Line("perf/update_seconds", "updates", SECOND),
            Line("perf/evaluation_seconds", "evaluations", HELD_OUT),
        ),
        f"Level; {rollouts}.",
        from_zero=True,
        place="costs",
    )


_SPEED = (
    Plot(
        "Throughput",
        "tokens per second",
        (Line("perf/tokens_per_second", "tokens/s", TRAINING),),
        "Level; a slow decline comes with longer answers, a sudden one from the machine.",
        from_zero=True,
        place="costs",
    ),
    Plot(
        "Arithmetic speed",
        "TFLOP/s",
        (Line("perf/tflops", "TFLOP/s", TRAINING),),
        "Level; compare it with the peak of the device to see the headroom.",
        from_zero=True,
        place="costs",
    ),
    Plot(
        "Peak memory",
        "GiB",
        (Line("perf/peak_gib", "peak", TRAINING),),
        "Flat after the first iterations; growth without end is a leak.",
        from_zero=True,
        place="costs",
    ),
)
