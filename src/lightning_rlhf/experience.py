"""What travels from the rollout to the update.

Shapes: B rows, P prompt tokens (padded at the left), R response tokens (padded at the right), T = P + R.
They are named tuples of tensors, so that Lightning moves them between devices as they are.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.errors import UserError
from lightning_rlhf.ops.sequences import used_columns


class Sequences(NamedTuple):
    """Prompts with their responses.

    With P = 3 and R = 3, a prompt of two tokens that got the answer "c, EOS":

        input_ids       0    a    b    c   EOS   0
        attention_mask  .    x    x    x    x    .
        response_mask                  x    x    .
    """

    input_ids: Tensor
    """(B, T) int64; 0 under the padding."""
    attention_mask: Tensor
    """(B, T) bool."""
    response_mask: Tensor
    """(B, R) bool, up to and including the stop token."""

    @property
    def responses(self) -> Tensor:
        """(B, R) ids of the responses."""
        return self.input_ids[:, -self.response_mask.shape[1] :]

    def rows(self, index: list[int] | slice) -> "Sequences":
        """The chosen rows, without the columns that none of them uses."""
        mask, response_mask = self.attention_mask[index], self.response_mask[index]
        num_prompt_columns = mask.shape[1] - response_mask.shape[1]
        responses = slice(0, used_columns(response_mask).stop)
        start = used_columns(mask[:, :num_prompt_columns]).start
        whole = slice(start, num_prompt_columns + responses.stop)
        return Sequences(self.input_ids[index, whole], mask[:, whole], response_mask[:, responses])


class Answers(NamedTuple):
    """Responses as a reward source gets them: as ids, and as texts."""

    sequences: Sequences
    prompts: list[str]
    """B last user turns."""
    responses: list[str]
    """B texts, without special tokens."""
    columns: list[dict[str, Any]]
    """The other columns of each row, and as `messages` the conversation before the answer."""


class Scores(NamedTuple):
    """What a reward source gives."""

    whole: Tensor
    """(B,) fp32, of each response as a whole."""
    parts: dict[str, Tensor]
    """(B,) totals of each part of a sum before its weight, by name; empty for a source that is no sum."""
    tokens: Tensor | None = None
    """(B, R) fp32, of single tokens, 0 outside the response mask; None if the source scores none."""

    @property
    def token_sums(self) -> Tensor:
        """(B,) sums of the scores of tokens."""
        return torch.zeros_like(self.whole) if self.tokens is None else self.tokens.sum(1)

    @property
    def total(self) -> Tensor:
        """(B,) score of each response as a whole, and of its tokens."""
        return self.whole + self.token_sums


class Experience(NamedTuple):
    """One row for each sampled response, ready for the update."""

    sequences: Sequences
    old_logprobs: Tensor
    """(B, R) under the actor that sampled, in nats."""
    ref_logprobs: Tensor
    """(B, R) under the reference, in nats."""
    advantages: Tensor
    """(B, R)."""
    old_values: Tensor | None
    """(B, R) of the critic at the time of sampling, if there is a critic."""
    returns: Tensor | None
    """(B, R), targets of the critic."""
    kl_coef: Tensor
    """(B, 1) weight of the KL penalty in the iteration of the rollout; the one for the next may be another already."""
    sampler_logprobs: Tensor
    """(B, R) in the distribution that the engine drew the tokens from, in nats."""
    weights_version: Tensor
    """(B, 1) int64, of the weights that the engine drew with: the number of optimizer steps behind them."""

    def rows(self, index: list[int]) -> "Experience":
        """The chosen rows, without the columns that none of them uses."""
        sequences = self.sequences.rows(index)
        width = sequences.response_mask.shape[1]
        columns: Any = (None if tensor is None else tensor[index, :width] for tensor in self[1:])
        return Experience(sequences, *columns)

    def by_name(self) -> dict[str, Tensor | None]:
        """All tensors by the names of their fields, those of the sequences among them."""
        others = self._asdict()
        return {**others.pop("sequences")._asdict(), **others}

    @staticmethod
    def from_names(tensors: dict[str, Tensor | None]) -> "Experience":
        """Undoes `by_name`.

        Raises:
            UserError: If there are not the same names.
        """
        expected = {*Sequences._fields, *Experience._fields} - {"sequences"}
        if differing := expected ^ tensors.keys():
            raise UserError(
                f"the checkpoint was written within an iteration, by a version whose experience differs in "
                f"{', '.join(sorted(differing))}: go on with that version, or from the end of an iteration"
            )
        others: Any = dict(tensors)
        sequences = Sequences(*(others.pop(name) for name in Sequences._fields))
        return Experience(sequences, **others)


class Rollout(NamedTuple):
    """Everything about one iteration's samples, over all ranks; for callbacks."""

    iteration: int
    experience: Experience
    prompts: list[str]
    responses: list[str]
    scores: Tensor
    """(B,) what the reward source gave."""
    kl: Tensor
    """(B,) k1 estimate of KL(actor || reference), in nats a response."""
    finished: Tensor
    """(B,) bool: the response ended with a stop token, not at the length limit."""
    metrics: dict[str, float]
    """Names without prefix, such as `score_mean`."""
    seconds: float
