"""The plots of what a stage is for. Titles, units and captions fit the stage, and the reward that it uses."""

from lightning_rlhf.report.measures import gold_names
from lightning_rlhf.report.numbers import unchanged
from lightning_rlhf.report.plots import HELD_OUT, SECOND, TRAINING, Line, Plot
from lightning_rlhf.report.run import Stage
from lightning_rlhf.report.settings import scored_by_model, scorer, setting


def stage_plots(stage: Stage) -> list[Plot]:
    """The plots of a stage, of which those that were logged are drawn."""
    return [_loss(stage), *_LEARNING, _score(stage), *_gold(stage), *_UPDATE]


def _loss(stage: Stage) -> Plot:
    unit, caption = {
        "sft": ("nats per token", "Both fall and level off together; a held-out loss that turns up means overfitting."),
        "reward": (
            "squared error" if setting(stage, "reward_model.data.objective") == "regression" else "nats per pair",
            "Both fall; a held-out loss that turns up while the training loss falls means overfitting.",
        ),
        "dpo": (
            "nats², per pair" if setting(stage, "dpo.module.loss") == "ipo" else "nats per pair",
            "Both fall from their value before training; a held-out loss that turns up means overfitting.",
        ),
    }.get(stage.name, ("loss", "Its level says little, since the data of each iteration are new; jumps say a lot."))
    lines = (Line("train/loss", "training", TRAINING), Line("val/loss", "held-out", HELD_OUT))
    return Plot("Loss", unit, lines, caption, settles=True)


_LEARNING = (
    Plot(
        "Perplexity",
        "perplexity",
        (Line("val/perplexity", "held-out", HELD_OUT),),
        "Falls fast, then flattens; more steps past the flat part buy nothing.",
        settles=True,
    ),
    Plot(
        "Reward accuracy",
        "share of pairs",
        (
            Line("train/reward_accuracy", "training", TRAINING),
            Line("val/reward_accuracy", "held-out", HELD_OUT, share=True),
        ),
        "Climbs clear of the dashed length rules; on top of one, it has only learned to measure length.",
        percent=True,
        levels=(("longer_wins_accuracy", "“longer wins”"), ("shorter_wins_accuracy", "“shorter wins”")),
    ),
    Plot(
        "Absolute error",
        "score",
        (Line("val/absolute_error", "held-out", HELD_OUT),),
        "Falls towards the noise of the scores in the data.",
        from_zero=True,
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
)


def _score(stage: Stage) -> Plot:
    source = scorer(stage)
    return Plot(
        f"Score of the {source}" if source else "Score",
        "score",
        (
            Line("rollout/score_mean", "rollouts, ±1 std", TRAINING, spread="rollout/score_std"),
            Line("val/score", "held-out", HELD_OUT),
        ),
        "Rises steadily and then flattens, with the held-out prompts close behind.",
    )


def _gold(stage: Stage) -> list[Plot]:
    if not stage.record.has_reference:
        caption = "As high as the demonstrations allow: imitation repeats the bad ones too."
    elif scored_by_model(stage):
        caption = "Rises with the score; a score that climbs while this falls is reward hacking."
    elif stage.record.samples:
        caption = "Rises with the score; a score that climbs while this falls pays for something else."
    else:
        caption = "Rises while the pairs teach what the gold metric measures; a fall means that training goes too far."
    rate = Line("val/gold_rate", "gold rate", HELD_OUT, share=True)
    mean = next(iter(gold_names(stage)), "gold_mean")
    return [
        Plot(
            "Gold metric",
            "share of held-out prompts",
            (rate, Line("val/gold_win_rate", "wins over the start model", SECOND, share=True)),
            caption,
            percent=True,
        ),
        Plot(
            mean.replace("_", " ").capitalize(),
            "mean over held-out prompts",
            (Line(f"val/{mean}", "held-out", HELD_OUT),),
            "Moves before the gold rate does, because it counts answers that meet the gold metric in part.",
        ),
        *([] if unchanged(stage, "kl") else [_BOUGHT]),
    ]


_BOUGHT = Plot(
    "What the KL bought",
    "gold rate",
    (Line("val/gold_rate", "held-out", HELD_OUT, share=True),),
    "Goes up first, then right: each nat away from the start model should buy something.",
    percent=True,
    against="val/kl",
)


_UPDATE = (
    Plot(
        "KL coefficient",
        "score per nat",
        (Line("rollout/kl_coef", "coefficient", TRAINING),),
        "Settles once the KL is at its target.",
    ),
    Plot(
        "Policy loss",
        "clipped objective",
        (Line("train/policy_loss", "updates", TRAINING),),
        "Hovers slightly below zero; its level says little, sudden jumps say a lot.",
        rounding=1e-6,
    ),
    Plot(
        "Value loss",
        "squared error",
        (Line("train/value_loss", "updates", TRAINING),),
        "Falls early, then follows the reward as it moves.",
        settles=True,
    ),
    Plot(
        "Policy step size",
        "approx. KL per update, nats",
        (Line("train/approx_kl", "updates", TRAINING),),
        "Small and even; spikes are updates that left the trust region.",
        rounding=1e-6,
    ),
)
