"""The responses that are being sampled. One that ends leaves at once, and another one takes its place."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_rlhf.rollout.engines.draw import Draws, draw, seen_tokens
from lightning_rlhf.rollout.engines.engine import Token
from lightning_rlhf.rollout.engines.rows import NewRow, Rows
from lightning_rlhf.rollout.engines.stops import Stops
from lightning_rlhf.rollout.engines.waiting import Read
from lightning_rlhf.rollout.sampling import Sampling


class Response(NamedTuple):
    """A response that has begun."""

    request: int
    """Index of the request."""
    place: int
    """Row of its prompt among those that were read together."""
    ids: list[int]
    """The tokens so far."""


class Batch:
    """The responses that are being sampled."""

    def __init__(
        self,
        net: nn.Module,
        numbers: Tensor,
        sampling: Sampling,
        stops: Stops,
        max_rows: int,
        longest: int,
        *,
        entropy: bool,
    ) -> None:
        """Prepares an empty batch.

        Args:
            net: The model that samples.
            numbers: (requests, max_new_tokens) random numbers in (0, 1], one for each token that may be drawn.
            sampling: Settings of the sampling distribution.
            stops: The ends of responses.
            max_rows: Number of responses that are sampled at a time.
            longest: Number of tokens of the longest prompt.
            entropy: Whether to compute the entropy of each token's distribution.
        """
        self.net, self.numbers, self.sampling, self.stops = net, numbers, sampling, stops
        self.max_rows, self.longest, self.entropy = max_rows, longest, entropy
        self.sampled: list[Response] = []
        # Responses that have their first token and wait for a place, and their prompts.
        self._ready: list[Response] = []
        self._read: Read | None = None
        self._rows: Rows | None = None

    @property
    def has_room(self) -> bool:
        """Whether a prompt that is read now would find a place."""
        return not self._ready and len(self.sampled) < self.max_rows

    def begin(self, read: Read) -> list[tuple[int, Token]]:
        """Draws the first token of each request whose prompt has been read, and returns it with the request."""
        begun = [Response(request, place, []) for request, place in zip(read.requests, read.places, strict=True)]
        logits = read.logits[torch.tensor(read.places, device=read.logits.device)]
        first = self.numbers[torch.tensor(read.requests, device=self.numbers.device), 0]
        seen = seen_tokens([read.prompts[place] for place in read.places], logits, self.sampling)
        tokens = self._added(begun, draw(logits, first, self.sampling, seen, entropy=self.entropy))
        self._ready = [one for one, (_, token) in zip(begun, tokens, strict=True) if token.finish_reason is None]
        self._read = read
        self._admit()
        return tokens

    def step(self) -> list[tuple[int, Token]]:
        """Draws the next token of each response, and returns it with the request; responses that end leave."""
        assert self._rows is not None
        tokens = self._added(self.sampled, self._rows.step())
        for place in reversed(range(len(tokens))):
            if tokens[place][1].finish_reason is not None:
                # The last response takes the free place, as its row does in `Rows`.
                self._rows.remove(place)
                self.sampled[place] = self.sampled[-1]
                self.sampled.pop()
        self._admit()
        return tokens

    def _admit(self) -> None:
        """Gives the free places to responses that are ready."""
        new = self._ready[: self.max_rows - len(self.sampled)]
        if not new or self._read is None:
            return
        read = self._read
        if self._rows is None:
            self._rows = Rows(
                self.net, read, self.numbers, self.sampling, self.max_rows, self.longest, entropy=self.entropy
            )
        prompts = [read.prompts[one.place] for one in new]
        self._rows.admit(
            read.cache,
            [NewRow(one.place, prompt, one.request, one.ids[0]) for one, prompt in zip(new, prompts, strict=True)],
        )
        self.sampled, self._ready = self.sampled + new, self._ready[len(new) :]
        if not self._ready:
            self._read = None

    def _added(self, responses: list[Response], draws: Draws) -> list[tuple[int, Token]]:
        """Adds a token to each response."""
        tokens = []
        for response, (number, logprob, *entropy) in zip(responses, draws.fetched(), strict=True):
            response.ids.append(int(number))
            token = Token(response.ids[-1], logprob, self.stops.reason(response.ids), *entropy)
            tokens.append((response.request, token))
        return tokens
