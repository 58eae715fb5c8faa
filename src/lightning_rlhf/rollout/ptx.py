"""Texts that are mixed into PPO's updates, so that the actor does not forget how to write such texts.

Source: Ouyang et al., "Training language models to follow instructions with human feedback" (2022), PPO-ptx.
"""

from lightning.pytorch import Trainer

from lightning_rlhf.data.batches import SFTBatch
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sft import collate_sft
from lightning_rlhf.data.shares import Shares
from lightning_rlhf.seeding import PTX as PURPOSE
from lightning_rlhf.seeding import endless


class PTX:
    """Provides a minibatch of texts for each minibatch of PPO.

    The texts depend on the number of the minibatch alone, so a checkpoint need not contain a position.
    """

    def __init__(self, rows: Rows[Conversation], *, minibatch_size: int, trainer: Trainer, seed: int) -> None:
        """Stores the texts.

        Args:
            rows: Conversations, with the column `num_labels`.
            minibatch_size: Number of texts for each optimizer step, over all ranks and accumulated parts.
            trainer: Knows how many ranks and accumulated parts share the texts.
            seed: Seed of the order.

        Raises:
            UserError: If the texts of a step cannot be shared equally.
        """
        self.rows, self.seed = rows, seed
        self.num_labels = rows.numbers("num_labels")
        self.shares = Shares.of(minibatch_size, trainer)

    def part(self, update: int, part: int) -> SFTBatch:
        """Returns this rank's share of one part of one update.

        Args:
            update: Number of the minibatch, counted over all iterations.
            part: Number of the accumulated part.
        """
        size = self.shares.minibatch_size
        places = endless(len(self.rows), update * size, size, self.seed, PURPOSE)
        mine = [self.rows[place] for place in self.shares.mine(self.shares.in_order(places), part)]
        return collate_sft(mine, int(self.num_labels[places].sum()))
