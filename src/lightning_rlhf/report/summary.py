"""The sentence at the top of the run card."""

import math

from lightning_rlhf.report.formatting import decimal, percent
from lightning_rlhf.report.measures import change, interval, num_rows
from lightning_rlhf.report.numbers import before, described, final, unchanged
from lightning_rlhf.report.run import Run, Stage
from lightning_rlhf.report.settings import scorer


def summary(run: Run) -> str:
    """One sentence on the last stage that has a result; empty if no stage has one."""
    texts = (_policy_sentence(stage) or _reward_sentence(stage) or _text_sentence(stage) for stage in run.stages[::-1])
    return next(filter(None, texts), "")


def _policy_sentence(stage: Stage) -> str:
    for name, label in (("gold_rate", "gold rate"), ("score", _score_label(stage))):
        start, end = before(stage, name), final(stage, name)
        if start is None or end is None or not math.isfinite(start) or not math.isfinite(end):
            continue
        _, show, _ = described(stage, name)
        if unchanged(stage, name):
            did = f"left the {label} on held-out prompts unchanged at {show(end)}{_noise(stage, name)}"
        else:
            verb = "raised" if end > start else "lowered"
            did = f"{verb} the {label} on held-out prompts from {show(start)} to {show(end)}"
        return f"{stage.record.title} {did}{_cost(stage)}."
    return ""


def _noise(stage: Stage, name: str) -> str:
    """What the metric was before training, and how large a change chance alone would explain."""
    start, found = before(stage, name), change(stage, name)
    _, show, _ = described(stage, name)
    if start is None or found is None or not found.noise:
        return ""
    rows = num_rows(stage, name)
    return f" ({show(start)} before; with {rows} prompts, chance explains a change of up to {show(found.noise)})"


def _score_label(stage: Stage) -> str:
    source = scorer(stage)
    return f"score of the {source}" if source else "score"


def _cost(stage: Stage) -> str:
    """How far the policy is from its start."""
    kl = final(stage, "kl")
    if kl is None:
        return ""
    if unchanged(stage, "kl"):
        return ", with no measurable KL from the model it started from"
    return f", {decimal(kl)} nats of KL per response away from the model it started from"


def _reward_sentence(stage: Stage) -> str:
    accuracy = final(stage, "reward_accuracy")
    rules = [final(stage, name) for name in ("longer_wins_accuracy", "shorter_wins_accuracy")]
    known = [rule for rule in rules if rule is not None]
    if accuracy is None:
        return ""
    rule = f"; the better length rule manages {percent(max(known))}" if known else ""
    exact = interval(stage, "reward_accuracy", accuracy)
    if known and exact is not None and exact.low <= max(known) <= exact.high:
        rule += ", which is no measurable difference"
    judge = "reward model" if stage.record.trains_reward_model else "implicit reward"
    return f"The {judge} scores the preferred answer higher in {percent(accuracy)} of held-out pairs{rule}."


def _text_sentence(stage: Stage) -> str:
    perplexity = final(stage, "perplexity")
    return "" if perplexity is None else f"The model reaches a perplexity of {decimal(perplexity)} on held-out answers."
