"""The data that a rollout hands to the update.

Shapes: B rows, P prompt tokens (padded on the left), R response tokens (padded on the right), T = P + R.
The classes are named tuples of tensors, which Lightning can move between devices.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.errors import UserError
from lightning_rlhf.ops.sequences import used_columns


class Sequences(NamedTuple):
    """Prompts with their responses.

    For P = 3 and R = 3, a prompt of two tokens with the answer "c, EOS" is:

        input_ids       0    a    b    c   EOS   0
        attention_mask  .    x    x    x    x    .
        response_mask                  x    x    .
    """

    input_ids: Tensor
    """(B, T) int64; 0 at padding."""
    attention_mask: Tensor
    """(B, T) bool."""
    response_mask: Tensor
    """(B, R) bool, up to and including the stop token."""

    @property
    def responses(self) -> Tensor:
        """(B, R) token ids of the responses."""
        return self.input_ids[:, -self.response_mask.shape[1] :]

    def rows(self, index: list[int] | slice) -> "Sequences":
        """The selected rows, without the columns that none of them uses."""
        mask, response_mask = self.attention_mask[index], self.response_mask[index]
        num_prompt_columns = mask.shape[1] - response_mask.shape[1]
        responses = slice(0, used_columns(response_mask).stop)
        start = used_columns(mask[:, :num_prompt_columns]).start
        whole = slice(start, num_prompt_columns + responses.stop)
        return Sequences(self.input_ids[index, whole], mask[:, whole], response_mask[:, responses])


class Answers(NamedTuple):
    """Responses as a reward source receives them: as token ids, and as texts."""

    sequences: Sequences
    prompts: list[str]
    """The last user turn of each of the B rows."""
    responses: list[str]
    """The text of each of the B responses, without special tokens."""
    columns: list[dict[str, Any]]
    """The other columns of each row, with the conversation before the answer as `messages`."""


class Scores(NamedTuple):
    """The scores that a reward source gives."""

    whole: Tensor
    """(B,) fp32, the score of each response as a whole."""
    parts: dict[str, Tensor]
    """(B,) unweighted total of each part of a sum, by name, NaN where the part has no score for the response; empty for
    a source that is not a sum."""
    tokens: Tensor | None = None
    """(B, R) fp32, the scores of single tokens, 0 outside the response mask; None if the source scores no tokens."""
    absent: Tensor | None = None
    """(B,) bool, whether a part of a sum has no score for the response, which is then 0; None if it scores all."""
    dropped: Tensor | None = None
    """(B,) bool, whether the source failed for the response, whose numbers mean nothing then; None for a source whose
    failures stop the run."""

    @property
    def token_sums(self) -> Tensor:
        """(B,) sum of the token scores of each response."""
        return torch.zeros_like(self.whole) if self.tokens is None else self.tokens.sum(1)

    @property
    def total(self) -> Tensor:
        """(B,) score of each response as a whole plus the scores of its tokens."""
        return self.whole + self.token_sums


class Experience(NamedTuple):
    """One row for each sampled response, ready for the update."""

    sequences: Sequences
    old_logprobs: Tensor
    """(B, R) log-probs under the actor that sampled the responses, in nats."""
    ref_logprobs: Tensor
    """(B, R) log-probs under the reference, in nats."""
    advantages: Tensor
    """(B, R)."""
    old_values: Tensor | None
    """(B, R) values of the critic at the time of sampling; None if there is no critic."""
    returns: Tensor | None
    """(B, R) targets of the critic; None if there is no critic."""
    kl_coef: Tensor
    """(B, 1) weight of the KL penalty in the iteration of the rollout. The weight of the next iteration may have been
    set already."""
    sampler_logprobs: Tensor
    """(B, R) log-probs under the distribution from which the engine drew the tokens, in nats."""
    weights_version: Tensor
    """(B, 1) int64, the version of the weights that the engine sampled with: their number of optimizer steps."""

    def rows(self, index: list[int]) -> "Experience":
        """The selected rows, without the columns that none of them uses."""
        sequences = self.sequences.rows(index)
        width = sequences.response_mask.shape[1]
        return Experience._make(
            [sequences, *(None if tensor is None else tensor[index, :width] for tensor in self[1:])]
        )

    def by_name(self) -> dict[str, Tensor | None]:
        """All tensors by the names of their fields, including the tensors of the sequences."""
        others = self._asdict()
        return {**others.pop("sequences")._asdict(), **others}

    @staticmethod
    def from_names(tensors: dict[str, Tensor | None]) -> "Experience":
        """The inverse of `by_name`.

        Raises:
            UserError: If the names are not those of `by_name`.
        """
        expected = {*Sequences._fields, *Experience._fields} - {"sequences"}
        # Older versions saved a list without names, which differs in everything.
        if differing := expected ^ set(tensors if isinstance(tensors, dict) else ()):
            raise UserError(
                f"the checkpoint was written within an iteration, by a version whose experience differs in "
                f"{', '.join(sorted(differing))}: resume with that version, or from the end of an iteration"
            )
        sequences = Sequences._make(tensors[name] for name in Sequences._fields)
        return Experience._make([sequences, *(tensors[name] for name in Experience._fields[1:])])


class Rollout(NamedTuple):
    """The samples of one iteration from all ranks, for callbacks, without responses that were dropped."""

    iteration: int
    experience: Experience
    prompts: list[str]
    responses: list[str]
    scores: Tensor
    """(B,) scores from the reward source."""
    kl: Tensor
    """(B,) k1 estimate of KL(actor || reference), in nats per response."""
    finished: Tensor
    """(B,) bool, whether the response ended with a stop token and not at the length limit."""
    metrics: dict[str, float]
    """Metrics by their names without prefix, such as `score_mean`."""
    seconds: float
    messages: Sequence[Sequence[dict[str, Any]]]
    """The conversation before the response of each of the B rows."""
    rescored: Tensor
    """(B,) bool, whether the actor computed the log-probs of the response again after the sampler."""
