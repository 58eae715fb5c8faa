"""Texts that are mixed into PPO's updates, so that the actor does not forget how to write them.

Source: Ouyang et al., "Training language models to follow instructions with human feedback" (2022), PPO-ptx.
"""

from lightning.pytorch import Trainer

from lightning_rlhf.data.batches import SFTBatch
from lightning_rlhf.data.loader import micro_batch_size
from lightning_rlhf.data.render import Rendered
from lightning_rlhf.data.sft import collate_sft, num_labels
from lightning_rlhf.seeding import PTX as PURPOSE
from lightning_rlhf.seeding import endless


class PTX:
    """Gives each minibatch of PPO a minibatch of texts, as a function of its number: there is no place to keep."""

    def __init__(self, rows: list[Rendered], *, minibatch_size: int, trainer: Trainer, seed: int) -> None:
        """Takes the texts.

        Args:
            rows: Rendered texts.
            minibatch_size: Texts for each optimizer step, over all ranks and accumulated parts.
            trainer: Says how many ranks and accumulated parts share them.
            seed: Of the order.

        Raises:
            UserError: If they cannot be shared equally.
        """
        self.rows, self.minibatch_size, self.seed = rows, minibatch_size, seed
        self.micro_batch_size = micro_batch_size(minibatch_size, trainer)

    def part(self, update: int, part: int) -> SFTBatch:
        """The share of one part of one update.

        Args:
            update: Number of the minibatch, over all iterations.
            part: Number of the part among those of all ranks.
        """
        places = endless(len(self.rows), update * self.minibatch_size, self.minibatch_size, self.seed, PURPOSE)
        rows = [self.rows[place] for place in places]
        mine = rows[part * self.micro_batch_size :][: self.micro_batch_size]
        return collate_sft(mine, sum(map(num_labels, rows)))
