"""Settings of the sampling distribution, which every engine follows."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_rlhf.errors import UserError, raise_problems


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of the sampling distribution.

    Attributes:
        max_new_tokens: Length limit of a response, in tokens.
        temperature: The logits are divided by the temperature; 0 takes the likeliest token each time (greedy).
        top_k: Draw from this number of likeliest tokens; 0 draws from all tokens.
        top_p: Draw from the smallest set of tokens with this probability; 1 draws from all tokens.
        min_p: Draw from tokens that are at least this many times as likely as the likeliest; 0 draws from all tokens.
        repetition_penalty: The positive logits of tokens that the prompt or the response contains already are divided
            by this number, and the negative ones multiplied (CTRL, arXiv:1909.05858); 1 leaves them as they are.
        stop: Texts, any of which ends a response. The response contains the text, and perhaps the rest of its last
            token.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Checks the values."""
        problems = []
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if not self.temperature >= 0:
            problems.append(f"temperature={self.temperature}: must not be negative (0 is greedy)")
        if self.top_k < 0:
            problems.append(f"top_k={self.top_k}: must not be negative (0 draws from all tokens)")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p}: must lie in (0, 1] (1 draws from all tokens)")
        if not 0 <= self.min_p < 1:
            problems.append(f"min_p={self.min_p}: must lie in [0, 1) (0 draws from all tokens)")
        if not self.repetition_penalty > 0:
            problems.append(f"repetition_penalty={self.repetition_penalty}: must be positive (1 is no penalty)")
        is_list = isinstance(self.stop, Sequence) and not isinstance(self.stop, str)
        if not is_list or not all(isinstance(text, str) and text for text in self.stop):
            problems.append(f"stop={self.stop!r}: must be a list of texts that are not empty; [] stops at none")
        raise_problems(problems)
        # A configuration gives a list.
        object.__setattr__(self, "stop", tuple(self.stop))

    @property
    def is_whole(self) -> bool:
        """Whether tokens are drawn from the whole distribution of the logits divided by the temperature."""
        all_tokens = self.top_k == 0 and self.top_p == 1 and self.min_p == 0
        return self.temperature > 0 and all_tokens and self.repetition_penalty == 1

    def generation_settings(self, *, limited: bool) -> dict[str, object]:
        """Returns the distribution by the names of transformers' `GenerationConfig`, for exports.

        `top_k` is always named, because transformers draws from the 50 likeliest tokens by default. `stop` is left out,
        because transformers refuses to generate with it unless each call passes the tokenizer.

        Args:
            limited: Whether the length limit belongs to the distribution, as it does if responses of this length were
                trained. Servers such as vLLM do not generate more than the limit that they find in an export.
        """
        settings: dict[str, object] = {"max_new_tokens": self.max_new_tokens} if limited else {}
        if self.repetition_penalty != 1:
            settings["repetition_penalty"] = self.repetition_penalty
        if self.temperature == 0:
            return settings | {"do_sample": False}
        drawn = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return settings | {"do_sample": True} | drawn | ({"min_p": self.min_p} if self.min_p else {})

    def check_for_rollout(self) -> None:
        """Checks that PPO can recompute the log-probs of the sampling distribution.

        Texts that stop a response are accepted, because they change where it ends and not what it is drawn from.

        Raises:
            UserError: If tokens are excluded or penalised, or sampling is greedy.
        """
        if not self.is_whole:
            raise UserError(
                f"rollout: temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}, min_p={self.min_p}, "
                f"repetition_penalty={self.repetition_penalty}: PPO compares log-probs of the distribution that was "
                "sampled from, so it must be the whole one: set top_k=0, top_p=1, min_p=0, repetition_penalty=1 and a "
                "temperature above 0"
            )
