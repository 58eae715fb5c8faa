"""The alarms of PPO: rules about rollouts, updates, and the gold score of held-out answers.

See `alarm_rules` for the unit of `window` and the choice of the thresholds.
"""

from statistics import fmean

from lightning_rlhf.callbacks.alarms import History, alarm


@alarm(
    ("gold/mean", "gold/error", "gold/score", "gold/kl"),
    threshold=4.0,
    window=2,
    meaning="KL and score rise while the gold score falls: the actor is exploiting the reward model",
    remedy="stop, and use an earlier checkpoint; raise kl_coef, or train the reward model on answers of this actor",
)
def reward_hacking(history: History, threshold: float, window: int) -> str | None:
    """The held-out gold is `threshold` standard errors below its best, with score and KL above their values then."""
    best, best_score, best_kl = max(zip(history["gold/mean"], history["gold/score"], history["gold/kl"], strict=True))
    recent = _recent(history, window, "gold/mean", "gold/error", "gold/score", "gold/kl")
    if not all(
        mean + threshold * error < best and score > best_score and kl > best_kl for mean, error, score, kl in recent
    ):
        return None
    mean, _, score, kl = recent[-1]
    return (
        f"gold is {mean:.3g}, score {score:.3g} and KL {kl:.3g}; "
        f"when gold was best, they were {best:.3g}, {best_score:.3g} and {best_kl:.3g}"
    )


@alarm(
    ("rollout/kl", "rollout/response_length"),
    threshold=0.5,
    window=3,
    meaning="the actor is leaving the reference, and with it everything that the reward model knows",
    remedy="raise kl_coef, use callbacks=adaptive_kl, or lower the learning rate",
)
def kl_runaway(history: History, threshold: float, window: int) -> str | None:
    """The KL is above `threshold` nats a token, a unit that means the same for short and long responses."""
    rates = [kl / length for kl, length in _recent(history, window, "rollout/kl", "rollout/response_length")]
    return f"the KL is {rates[-1]:.3g} nats a token" if min(rates) > threshold else None


@alarm(
    ("rollout/kl", "rollout/kl_error"),
    threshold=-0.05,
    window=2,
    meaning="a KL cannot be negative, so the log-probs do not belong to the distribution that was sampled from",
    remedy="sample without top_k and top_p; use the same temperature and precision for sampling and scoring; use no "
    "dropout",
)
def kl_negative(history: History, threshold: float, window: int) -> str | None:
    """The KL (mean of k1 over responses) is below `threshold` nats a response by more than 4 standard errors."""
    pairs = _recent(history, window, "rollout/kl", "rollout/kl_error")
    if not all(kl + 4 * error < threshold for kl, error in pairs):
        return None
    return f"the KL is {pairs[-1][0]:.3g} ± {pairs[-1][1]:.2g} nats a response"


@alarm(
    ("rollout/sampler_mismatch",),
    threshold=0.1,
    window=2,
    meaning="the update sees other probabilities than those that the responses were sampled with, so its first ratio "
    "is wrong",
    remedy="use no dropout, and the same precision and attention implementation for sampling and scoring",
)
def sampler_mismatch(history: History, threshold: float, window: int) -> str | None:
    """The log-probs of sampler and scorer differ by more than `threshold` nats a token."""
    gaps = history["rollout/sampler_mismatch"][-window:]
    return f"sampler and scorer differ by {gaps[-1]:.3g} nats a token" if min(gaps) > threshold else None


@alarm(
    ("train/first_log_ratio",),
    threshold=0.1,
    window=2,
    meaning="before its first update, the actor is not the model that the rollout was scored with",
    remedy="use no dropout, and the same precision for rollout and update",
)
def ratio_not_one(history: History, threshold: float, window: int) -> str | None:
    """The root mean square of the log-ratio in an iteration's first update is above `threshold` nats a token."""
    ratios = history["train/first_log_ratio"][-window:]
    return f"the ratio differs from 1 by a factor of exp(±{ratios[-1]:.2g})" if min(ratios) > threshold else None


@alarm(
    ("rollout/entropy",),
    threshold=0.2,
    window=3,
    meaning="the actor has collapsed onto a few answers and no longer explores",
    remedy="lower the learning rate, raise kl_coef, or set ent_coef above 0",
)
def entropy_collapse(history: History, threshold: float, window: int) -> str | None:
    """The entropy is below `threshold` times its first value."""
    sentence = "the entropy is {:.3g} nats a token, and was {:.3g} at first"
    return _fallen(history["rollout/entropy"], threshold, window, sentence)


@alarm(
    ("rollout/distinct_2",),
    threshold=0.3,
    window=3,
    meaning="responses repeat themselves or each other",
    remedy="look at the samples, since the reward may favour certain phrases; raise kl_coef",
)
def repetition(history: History, threshold: float, window: int) -> str | None:
    """Distinct-2 is below `threshold` times its first value."""
    sentence = "distinct-2 is {:.3g}, and was {:.3g} at first"
    return _fallen(history["rollout/distinct_2"], threshold, window, sentence)


@alarm(
    ("rollout/response_length",),
    threshold=2.0,
    window=3,
    meaning="the reward may be paying for length, not for content",
    remedy="look at the samples; check the reward model against the length rules; penalise length in the reward",
)
def length_drift(history: History, threshold: float, window: int) -> str | None:
    """Responses are more than `threshold` times as long as at first, or as short."""
    lengths = history["rollout/response_length"]
    first, recent = lengths[0], lengths[-window:]
    if min(recent) <= threshold * first and max(recent) * threshold >= first:
        return None
    return f"a response has {recent[-1]:.3g} tokens, and had {first:.3g} at first"


@alarm(
    ("rollout/eos_rate",),
    threshold=0.5,
    window=3,
    meaning="most responses reach the length limit, so unfinished answers are scored",
    remedy="raise max_new_tokens; check that demonstrations end with a stop token and that the model learns it",
)
def no_eos(history: History, threshold: float, window: int) -> str | None:
    """Fewer than `threshold` of the responses end by themselves."""
    rates = history["rollout/eos_rate"][-window:]
    return f"only {rates[-1]:.0%} of the responses end by themselves" if max(rates) < threshold else None


@alarm(
    ("train/clip_fraction",),
    threshold=0.25,
    window=3,
    meaning="updates leave the trust region, so much of the experience is wasted",
    remedy="lower the learning rate, use fewer ppo_epochs, or larger minibatches",
)
def clip_fraction_high(history: History, threshold: float, window: int) -> str | None:
    """More than `threshold` of the tokens are clipped."""
    shares = history["train/clip_fraction"][-window:]
    return f"{shares[-1]:.0%} of the tokens are clipped" if min(shares) > threshold else None


@alarm(
    ("rollout/explained_variance",),
    threshold=0.0,
    window=10,
    meaning="the critic predicts worse than a constant would, so advantages are noise",
    remedy="raise critic_lr, or let the critic start from the reward model (ppo.critic_init=reward)",
)
def critic_blind(history: History, threshold: float, window: int) -> str | None:
    """The explained variance of the critic is below `threshold`."""
    shares = history["rollout/explained_variance"][-window:]
    return f"the explained variance is {shares[-1]:.3g}" if max(shares) < threshold else None


@alarm(
    ("rollout/zero_variance_groups",),
    threshold=0.8,
    window=5,
    meaning="most groups give no gradient, since all their responses have the same score",
    remedy="use prompts that are neither solved nor hopeless, larger groups, a higher temperature, or a finer score",
)
def zero_variance(history: History, threshold: float, window: int) -> str | None:
    """More than `threshold` of the groups have the same score for all responses."""
    shares = history["rollout/zero_variance_groups"][-window:]
    return f"{shares[-1]:.0%} of the groups have a single score" if min(shares) > threshold else None


@alarm(
    ("rollout/score_mean", "rollout/score_std"),
    threshold=0.1,
    window=50,
    meaning="the actor learns nothing, unless it began at the ceiling",
    remedy="raise the learning rate, or lower kl_coef; check in the samples whether the score tells good from bad",
)
def score_flat(history: History, threshold: float, window: int) -> str | None:
    """The mean score of the last 10 iterations is not `threshold` standard deviations above that of the first 10."""
    scores = history["rollout/score_mean"]
    first, last = fmean(scores[:10]), fmean(scores[-10:])
    if last > first + threshold * history["rollout/score_std"][0]:
        return None
    return f"the mean score is {last:.3g}, and was {first:.3g} at first"


@alarm(
    ("rollout/kl", "train/clip_fraction"),
    threshold=0.001,
    window=10,
    meaning="the actor does not move: its updates are too small to change what it says",
    remedy="raise the learning rate; adapters need about ten times that of the whole model; check its warm-up",
)
def actor_stands_still(history: History, threshold: float, window: int) -> str | None:
    """The mean KL is within `threshold` nats a response of 0, and no token is clipped."""
    kls, clipped = history["rollout/kl"][-window:], history["train/clip_fraction"][-window:]
    if abs(fmean(kls)) > threshold or max(clipped) > 0:
        return None
    return f"the KL is {fmean(kls):.2g} nats a response, and {max(clipped):.0%} of the tokens are clipped"


def _recent(history: History, window: int, *names: str) -> list[tuple[float, ...]]:
    """Returns the latest values of several metrics side by side."""
    return list(zip(*(history[name][-window:] for name in names), strict=True))


def _fallen(values: list[float], threshold: float, window: int, sentence: str) -> str | None:
    """Fills the latest and the first value into a sentence, if the latest values are below a share of the first."""
    return sentence.format(values[-1], values[0]) if max(values[-window:]) < threshold * values[0] else None
