"""The settings of `chat` and their checks, which need no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from omegaconf import DictConfig

from lightning_rlhf.assembly.setting_types import built
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.rollout.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """The page, if there is one."""

    web: bool
    host: str
    port: int
    password: str | None
    feedback_dir: str


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """The settings of conf/chat.yaml, which explains them."""

    model_dir: str
    against: str | None
    reward_model: str | None
    system: str | None
    seed: int | None
    dtype: Literal["float32", "bfloat16", "float16"]
    template: str | None
    sampling: Sampling
    chat: PageSettings

    @classmethod
    def of(cls, config: DictConfig) -> "ChatSettings":
        """Reads and checks the settings.

        Args:
            config: The configuration of `chat`.

        Raises:
            UserError: If a value has the wrong type, or would have no effect. The message names all mistakes.
        """
        settings = built(cls, {"sampling": Sampling, "chat": PageSettings}, config)
        raise_problems(settings._mistakes())
        return settings

    def _mistakes(self) -> Iterator[str]:
        if self.against is not None and not self.chat.web:
            yield f"against={self.against}: the terminal shows one model: add chat.web=true, or leave it out"
        if self.seed is not None and self.seed < 0:
            yield f"seed={self.seed}: must not be negative"
