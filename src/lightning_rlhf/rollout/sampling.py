"""Settings of the sampling distribution, which every engine follows."""

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
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Checks the values."""
        problems = []
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if self.temperature < 0:
            problems.append(f"temperature={self.temperature}: must not be negative (0 is greedy)")
        if self.top_k < 0:
            problems.append(f"top_k={self.top_k}: must not be negative (0 draws from all tokens)")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p}: must lie in (0, 1] (1 draws from all tokens)")
        raise_problems(problems)

    def generation_settings(self, *, limited: bool) -> dict[str, object]:
        """Returns the distribution by the names of transformers' `GenerationConfig`, for exports.

        `top_k` is always named, because transformers draws from the 50 likeliest tokens by default.

        Args:
            limited: Whether the length limit belongs to the distribution, as it does if responses of this length were
                trained. Servers such as vLLM do not generate more than the limit that they find in an export.
        """
        settings: dict[str, object] = {"max_new_tokens": self.max_new_tokens} if limited else {}
        if self.temperature == 0:
            return settings | {"do_sample": False}
        drawn = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return settings | {"do_sample": True} | drawn

    def check_for_rollout(self) -> None:
        """Checks that PPO can recompute the log-probs of the sampling distribution.

        Raises:
            UserError: If tokens are excluded, or sampling is greedy.
        """
        if self.temperature == 0 or self.top_k or self.top_p < 1:
            raise UserError(
                f"rollout: temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}: PPO compares "
                "log-probs of the distribution that was sampled from, so it must be the whole one: set top_k=0, "
                "top_p=1 and a temperature above 0"
            )
