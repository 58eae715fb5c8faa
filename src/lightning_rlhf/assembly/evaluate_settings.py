"""The settings of `evaluate` and their checks, which need no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig

from lightning_rlhf.assembly.setting_types import built
from lightning_rlhf.chat_models.keys import clear_keys
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.rollout.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """A chat model that compares answers."""

    model: str | None
    rubric: str | None
    api_key_env: str | None
    input_price: float | None
    output_price: float | None
    max_usd: float | None
    max_tokens: int | None
    max_concurrency: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How data are read."""

    columns: Mapping[str, str | None] | None
    split: str | None
    config_name: str | None
    on_error: Literal["raise", "skip"]

    @property
    def reading(self) -> Reading:
        """Which part of held-out data is read, and what its fields are called."""
        return Reading(columns=self.columns, val_split=self.split, config_name=self.config_name)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The settings of conf/evaluate.yaml, which explains them."""

    reward_model: str | None
    preferences: str | None
    source_column: str | None
    a: str | None
    b: str | None
    prompts: str | None
    answers: str | None
    gold: str | None
    labels: str | None
    limit: int | None
    seed: int
    dtype: Literal["float32", "bfloat16", "float16"]
    judge: JudgeSettings
    sampling: Sampling
    data: DataSettings

    @classmethod
    def of(cls, config: DictConfig) -> "EvaluateSettings":
        """Reads and checks the settings.

        Args:
            config: The configuration of `evaluate`.

        Raises:
            UserError: If a value has the wrong type, or the settings do not say what to evaluate. The message names all
                mistakes.
        """
        settings = built(cls, {"judge": JudgeSettings, "sampling": Sampling, "data": DataSettings}, config)
        raise_problems(settings._mistakes())
        return settings

    def _mistakes(self) -> Iterator[str]:
        if self.limit is not None and self.limit < 1:
            yield f"limit={self.limit}: must be positive, or null"
        if self.judge.max_concurrency < 1:
            yield f"judge.max_concurrency={self.judge.max_concurrency}: must be positive"
        of_models = {name: getattr(self, name) for name in ("a", "b", "prompts", "answers", "gold", "labels")}
        of_models["judge.model"] = self.judge.model
        given = [f"{name}={value}" for name, value in of_models.items() if value is not None]
        if self.preferences is not None:
            if self.reward_model is None:
                yield f"preferences={self.preferences}: give the reward model to evaluate as reward_model=FOLDER"
            if given:
                yield (
                    f"{', '.join(given)}: preferences={self.preferences} evaluates a reward model: leave out one of "
                    "them"
                )
        elif self.answers is not None:
            if both := [text for text in given if text.startswith(("a=", "b=", "prompts="))]:
                yield f"{', '.join(both)}: answers={self.answers} has the answers already: leave out one of them"
        elif missing := [name for name in ("a", "b", "prompts") if of_models[name] is None]:
            if len(missing) == 3:
                yield (
                    "nothing to evaluate: give reward_model=FOLDER preferences=FILE, or a=FOLDER b=FOLDER prompts=FILE"
                )
            else:
                are = "is" if len(missing) == 1 else "are"
                names = " and ".join(missing)
                yield f"{names} {are} not set: two models are compared by a=FOLDER b=FOLDER prompts=FILE"
        if self.source_column is not None and self.preferences is None:
            yield f"source_column={self.source_column}: only preferences=FILE have sources: leave it out"
        yield from clear_keys(self.judge.settings, "judge")
        drawn_before = {"preferences": self.preferences, "answers": self.answers}
        for name, value in drawn_before.items():
            if value is not None and (changed := _changed(self.sampling)):
                yield f"{', '.join(changed)}: nothing is drawn with {name}={value}: leave it out"
        if self.labels is not None and self.limit is not None:
            yield f"limit={self.limit}: the labels may belong to any row of the answers: leave out limit"
        if self.labels is not None and self.answers is None and self.preferences is None:
            yield f"labels={self.labels}: give the folder of the evaluation whose pairs were labelled as answers=FOLDER"


def _changed(sampling: Sampling) -> list[str]:
    """The settings of answers that are not those of conf/evaluate.yaml."""
    usual = Sampling(max_new_tokens=256)
    return [f"sampling.{name}={value}" for name, value in vars(sampling).items() if value != getattr(usual, name)]
