"""Decides where a response ends: at a stop token, at a text, or at the length limit."""

from collections.abc import Sequence

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.engine import Completion, Decode, FinishReason
from lightning_rlhf.rollout.sampling import Sampling


class Stops:
    """The ends of responses."""

    def __init__(self, sampling: Sampling, stop_ids: tuple[int, ...], decode: Decode | None = None) -> None:
        """Stores what ends a response.

        Args:
            sampling: Has the length limit and the texts.
            stop_ids: Token ids, any of which ends a response.
            decode: Turns ids into text; needed if there are texts.

        Raises:
            UserError: If there are texts, and no function that turns ids into text.
        """
        if sampling.stop and decode is None:
            raise UserError(
                f"sampling.stop={list(sampling.stop)}: the engine needs a function that turns ids into text: pass "
                "decode=, for example rollout.texts.decoder(renderer)"
            )
        self.limit, self.ids, self.texts, self.decode = sampling.max_new_tokens, {*stop_ids}, sampling.stop, decode
        # Each token of a text has at least one byte of it. One token more, because some tokenizers drop the space
        # before the first.
        self._num_last = 1 + max((len(text.encode()) for text in self.texts), default=0)

    def reason(self, ids: Sequence[int]) -> FinishReason | None:
        """Returns why a response ends with its last token; None if it goes on.

        Args:
            ids: The response so far, which did not end before its last token.
        """
        if ids[-1] in self.ids:
            return "stop"
        if self.decode is not None and self.texts:
            # A text may begin in one token and end in another.
            last = self.decode(ids[-self._num_last :])
            if any(text in last for text in self.texts):
                return "stop"
        return "length" if len(ids) == self.limit else None

    def cut(self, completion: Completion) -> Completion:
        """Ends a response at the first text that ends it, for engines that know the ids that end a response only."""
        for end in range(1, len(completion.ids) + 1 if self.texts else 0):
            if (reason := self.reason(completion.ids[:end])) is not None:
                ids, logprobs = completion.ids[:end], completion.logprobs[:end]
                entropies = None if completion.entropies is None else completion.entropies[:end]
                return completion._replace(ids=ids, logprobs=logprobs, finish_reason=reason, entropies=entropies)
        return completion
