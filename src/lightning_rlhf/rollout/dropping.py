"""Leaves responses out of an iteration for which the reward failed.

Shapes: B rows.
"""

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Experience
from lightning_rlhf.rollout.collect import Samples
from lightning_rlhf.rollout.nested import rows_at


def kept_rows(samples: Samples, group_size: int) -> list[int]:
    """Returns the rows whose response has a score; every rank finds the same rows, because it has the samples of all.

    The responses to a prompt are compared with each other, so a group is dropped as a whole.

    Args:
        samples: The samples of all ranks.
        group_size: Number of responses to a prompt; they are adjacent.

    Raises:
        UserError: If no row is left.
    """
    everything = list(range(len(samples.finished)))
    if samples.scores.dropped is None:
        return everything
    dropped = samples.scores.dropped.view(-1, group_size).any(1).tolist()
    kept = [row for row in everything if not dropped[row // group_size]]
    if not kept:
        raise UserError(
            f"on_error=drop: the reward failed for {int(samples.scores.dropped.sum())} of the {len(everything)} "
            "responses of an iteration, and no response is left to learn from; the warnings above say why"
        )
    return kept


def in_place(experience: Experience, kept: list[int], num_rows: int) -> Experience:
    """Puts rows back into their places in an iteration; the rows between them count for nothing.

    Minibatches therefore have as many rows as always, on all ranks.

    Args:
        experience: The experience of the kept rows.
        kept: Their places.
        num_rows: B, the number of rows of an iteration.

    Returns:
        (B, …) experience. A dropped row is a copy of another one with an empty response mask, so that losses and counts
        leave it out.
    """
    if len(kept) == num_rows:
        return experience
    places = dict(zip(kept, range(len(kept)), strict=True))
    whole = rows_at(experience, [places.get(row, 0) for row in range(num_rows)])
    mask = whole.sequences.response_mask.clone()
    mask[[row for row in range(num_rows) if row not in places]] = False
    return whole._replace(sequences=whole.sequences._replace(response_mask=mask))
