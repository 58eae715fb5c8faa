"""Scores from a chat model: any model that LangChain supports, at a provider or on a server of your own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_rlhf.chat_models.client import remote_client
from lightning_rlhf.chat_models.grading import RUBRIC, Grading
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.remote import Remote

if TYPE_CHECKING:
    from lightning_rlhf.data.fields import Message

_RETRIES, _MOST_RETRIES = 5, 1000


class LLMJudge:
    """Asks a chat model how good each response is. It serves as the function of a `TextReward`.

    Scores are mapped to numbers between 0 (the lower end of the scale) and 1 (the upper end).

    Example:
        >>> TextReward(LLMJudge("openai:gpt-4o-mini", rubric="Is the answer polite?"))
    """

    def __init__(
        self,
        model: str,
        rubric: str | None = None,
        scale: tuple[float, float] = (0, 10),
        max_concurrency: int = 8,
        settings: Mapping[str, Any] | None = None,
        api_key_env: str | None = None,
    ) -> None:
        """Makes the client of the provider, whose LangChain package must be installed, such as `langchain-openai`.

        Args:
            model: `provider:name`, in the form that LangChain's `init_chat_model` accepts.
            rubric: The criteria, in words that the model reads; None takes those of `Grading`.
            scale: Lowest and highest score to ask for.
            max_concurrency: Number of requests at a time.
            settings: Further arguments of the provider's class, such as `temperature`, `base_url`, `timeout`, and
                `max_retries`, how often a request is repeated that fails for a reason that may pass.
            api_key_env: Name of an environment variable that contains the key; None takes the provider's own variable.

        Raises:
            UserError: If the scale is empty, a key is among the settings, or LangChain cannot create the model.
        """
        self.grading = Grading(RUBRIC if rubric is None else rubric, *scale).checked()
        given = dict(settings or {})
        retries = given.pop("max_retries", _RETRIES)
        if not isinstance(retries, int) or not 0 <= retries <= _MOST_RETRIES:
            raise UserError(f"settings.max_retries={retries}: must be a whole number from 0 to {_MOST_RETRIES}")
        self.client = remote_client(
            model,
            settings=given,
            api_key_env=api_key_env,
            retries=retries,
            max_concurrency=max_concurrency,
            group="reward.function",
        )

    def __repr__(self) -> str:
        """Names the model."""
        return f"LLMJudge({self.client.name!r})"

    @property
    def remote(self) -> Remote:
        """A call of a rollout is about one response, so that there are never more requests than `max_concurrency`."""
        return Remote(calls=self.client.max_concurrency, rows=1)

    def __call__(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        messages: Sequence[Sequence["Message"]] | None = None,
    ) -> list[float]:
        """Scores responses.

        Args:
            prompts: B last user turns.
            responses: B answers.
            messages: B conversations before the answer; None stands for conversations that consist of the prompt alone.

        Returns:
            B numbers in [0, 1].

        Raises:
            UserError: If the model cannot be reached, or gives no score for an answer in two attempts.
        """
        before = messages or [[{"role": "user", "content": prompt}] for prompt in prompts]
        return self.client.map(lambda row: self._score(*row), zip(before, responses, strict=True))

    def _score(self, messages: Sequence["Message"], response: str) -> float:
        low, high = self.grading.low, self.grading.high
        score, replies, _ = self.grading.grade(self.client, messages, response)
        if score is None:
            first, second = (reply[:300] for reply in replies)
            raise UserError(
                f"model={self.client.name}: twice gave no score from {low:g} to {high:g} for the response "
                f"{response[:80]!r}; it said {first!r}, then {second!r}"
            )
        return (score - low) / (high - low)
