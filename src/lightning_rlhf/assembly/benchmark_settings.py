"""The settings that only a benchmark has, and their checks, which need no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.overrides import check_command_line
from lightning_rlhf.errors import raise_problems

_COUNTS = (
    *("rollout_batch_size", "minibatch_size", "ppo_epochs", "prompt_length", "response_length", "mean_response_length"),
    *("repeats", "ppo.module.credit.num_samples_per_prompt"),
)
_REPLACED = {
    "ppo.module.rollout_batch_size": "rollout_batch_size",
    "ppo.module.minibatch_size": "minibatch_size",
    "ppo.module.ppo_epochs": "ppo_epochs",
    "rollout.sampling.max_new_tokens": "response_length",
    "ppo.trainer.max_epochs": "repeats",
}
"""Settings of train, with those of a benchmark that take their place."""

_GROUPS = ("data", "ppo.data", "callbacks", "ppo.callbacks", "logger")
_ABSENT = (*_GROUPS, "resume")
"""Settings of train that have no effect."""
_BELOW = tuple(f"{group}." for group in _GROUPS)
_SHORTER = ("max_steps", "max_time", "limit_train_batches", "overfit_batches", "fast_dev_run")
"""Settings of the trainer that end an iteration, or the run, before the work is done."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """The settings of conf/benchmark.yaml that shape the work."""

    prompt_length: int
    min_prompt_length: int
    response_length: int
    length_distribution: Literal["fixed", "geometric"]
    mean_response_length: int
    random_reward_model: bool
    warmup: int
    repeats: int

    @classmethod
    def of(cls, config: DictConfig) -> "BenchmarkSettings":
        """Reads and checks the settings.

        Args:
            config: The configuration of `benchmark`.

        Raises:
            UserError: If a value is invalid. The message names all mistakes.
        """
        raise_problems(_mistakes(config))
        shortest = config.prompt_length if config.min_prompt_length is None else config.min_prompt_length
        others = {name: config[name] for name in cls.__dataclass_fields__ if name != "min_prompt_length"}
        return cls(min_prompt_length=shortest, **others)

    @property
    def iterations(self) -> int:
        """Number of all iterations; the last one measures the memory."""
        return self.warmup + self.repeats + 1


def check_benchmark(config: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None]) -> None:
    """Checks what can be checked without torch.

    Args:
        config: The configuration of `benchmark`.
        overrides: The overrides of the command line.
        choices: The chosen option of each group.

    Raises:
        UserError: If settings are wrong, or would have no effect. The message names all mistakes.
    """
    problems = [*_without_effect(overrides), *_mistakes(config)]
    if list(config.stages) != ["ppo"]:
        given = [text for text in overrides if text.lstrip("+~").partition("=")[0] in ("stage", "stages")]
        name = " ".join(given) or f"stages=[{','.join(config.stages)}]"
        # The other checks would need the settings of PPO.
        raise_problems([*problems, f"{name}: a benchmark measures iterations of PPO: leave it out"])
    check_command_line(config, overrides, choices, "benchmark", problems)


def _without_effect(overrides: Sequence[str]) -> Iterator[str]:
    for override in overrides:
        key, given, value = override.lstrip("+~").partition("=")
        if key in _REPLACED:
            remedy = f"set {_REPLACED[key]}={value}" if given else "leave it out"
            yield f"{key}: in a benchmark {_REPLACED[key]} takes its place: {remedy}"
        elif key in _ABSENT or key.startswith(_BELOW):
            yield (
                f"{key}: a benchmark has no data, callbacks, loggers or checkpoints, so it has no effect: leave it out"
            )
        elif key == "dry_run":
            yield "dry_run: a benchmark cannot be rehearsed: leave it out"


def _mistakes(config: DictConfig) -> Iterator[str]:
    for name in _COUNTS:
        if not _is_count(value := OmegaConf.select(config, name, default=1)):
            yield f"{name}={value}: must be a positive whole number"
    if not (config.warmup == 0 or _is_count(config.warmup)) or isinstance(config.warmup, bool):
        yield f"warmup={config.warmup}: must be a whole number that is not negative"
    shortest, longest = config.min_prompt_length, config.prompt_length
    if shortest is not None and not (_is_count(shortest) and (not _is_count(longest) or shortest <= longest)):
        yield f"min_prompt_length={shortest}: must lie between 1 and prompt_length={longest}"
    if config.length_distribution not in ("fixed", "geometric"):
        yield f"length_distribution={config.length_distribution}: expected fixed or geometric"
    if config.length_distribution == "geometric" and config.mean_response_length == 1:
        yield "mean_response_length=1: every response would be EOS alone: set 2 or more"
    if not isinstance(config.random_reward_model, bool):
        yield f"random_reward_model={config.random_reward_model}: expected true or false"
    for name in (f"{place}.{key}" for place in ("trainer", "ppo.trainer") for key in _SHORTER):
        if (value := OmegaConf.select(config, name)) is not None:
            yield f"{name}={value}: a benchmark measures whole iterations, whose number repeats sets: leave it out"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
