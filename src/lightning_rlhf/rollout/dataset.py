"""The data set of the update: a pass samples new experience and then reads it in minibatches."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_rlhf.data.batches import SFTBatch
from lightning_rlhf.data.module import Progress
from lightning_rlhf.data.shares import Shares, check_sizes
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Experience
from lightning_rlhf.ops.aggregation import MinibatchSize
from lightning_rlhf.rollout.ptx import PTX
from lightning_rlhf.seeding import MINIBATCHES, permutation


class Minibatch(NamedTuple):
    """The input of one training step: a part of a minibatch, and the size of the whole minibatch."""

    experience: Experience
    size: MinibatchSize
    """Size of the whole minibatch, over all ranks and accumulated parts."""
    ptx: SFTBatch | None = None
    """Texts that are mixed into the update (PPO-ptx), if there are any."""


class RolloutDataset:
    """A data set whose passes are PPO iterations: a rollout, then `ppo_epochs` passes over it, each in a new order.

    Every rank holds the experience of all ranks and takes its share of each minibatch. Minibatches, and the counts that
    losses are divided by, therefore do not depend on the number of ranks. The rollout happens when the first batch is
    requested, since Lightning creates the iterator before training starts. Checkpoints contain the experience and the
    position, so a run that was stopped in the middle of an iteration continues there, on any number of ranks.
    """

    def __init__(
        self,
        collect: Callable[[int], Experience],
        *,
        rollout_batch_size: int,
        minibatch_size: int,
        ppo_epochs: int,
        max_length: int,
        trainer: Trainer,
        seed: int,
        ptx: PTX | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Prepares the data set.

        Args:
            collect: Samples the experience of the iteration with a given number, over all ranks.
            rollout_batch_size: Number of responses of an iteration, over all ranks.
            minibatch_size: Number of responses of one optimizer step, over all ranks and accumulated parts.
            ppo_epochs: Number of passes over the experience of an iteration.
            max_length: Length limit of a response, in tokens. The experience may be narrower, since it may be trimmed.
            trainer: Knows how many ranks and accumulated parts share a minibatch.
            seed: Seed of the order.
            ptx: Texts to mix into the updates, if any.
            max_tokens: Limit of the tokens of a micro-batch, padding included; None for none.

        Raises:
            UserError: If `minibatch_size` or the number of ranks does not divide `rollout_batch_size`, or a minibatch
                cannot be shared equally.
        """
        check_sizes(rollout_batch_size, minibatch_size, trainer.world_size)
        self.collect, self.ppo_epochs, self.seed = collect, ppo_epochs, seed
        self.rollout_batch_size = rollout_batch_size
        self.shares = Shares.of(minibatch_size, trainer, max_tokens)
        self.ptx = ptx
        self.iteration = self.position = 0
        self.experience: Experience | None = None
        self.max_length = self.max_length_of_experience = max_length

    def __len__(self) -> int:
        """Number of micro-batches of an iteration, on each rank."""
        return self.num_updates * self.shares.num_parts

    @property
    def num_updates(self) -> int:
        """Number of minibatches of an iteration."""
        return self.ppo_epochs * (self.rollout_batch_size // self.shares.minibatch_size)

    def __iter__(self) -> Iterator[Minibatch]:
        """Starts or continues an iteration; nothing happens before the first batch is requested."""
        if self.position == len(self):
            self.iteration, self.position, self.experience = self.iteration + 1, 0, None
        if self.experience is None:
            self.experience, self.max_length_of_experience = self.collect(self.iteration), self.max_length
        # Read once, because each read of a GPU waits until the GPU has done everything before it.
        num_tokens = self.experience.sequences.response_mask.sum(1).cpu()
        lengths = self.experience.sequences.attention_mask.sum(1).tolist()
        while self.position < len(self):
            update, part = self.shares.place(self.position)
            epoch, number = divmod(update, self.rollout_batch_size // self.shares.minibatch_size)
            order = permutation(self.rollout_batch_size, self.seed, MINIBATCHES, self.iteration, epoch)
            minibatch = self.shares.minibatch(order, number)
            self.position += 1
            yield Minibatch(
                self.experience.rows(self.shares.mine(self.shares.dealt(minibatch, lengths), part)),
                MinibatchSize(*self._counts(num_tokens[minibatch]), self.max_length_of_experience),
                self.ptx.part(self.iteration * self.num_updates + update, part) if self.ptx else None,
            )

    @staticmethod
    def _counts(num_tokens: Tensor) -> tuple[int, int]:
        """The numbers of responses and of tokens to divide by; a dropped response has no tokens."""
        return max(int((num_tokens > 0).sum()), 1), max(int(num_tokens.sum()), 1)

    def progress(self) -> Progress:
        """Returns the position in rows of the iteration, and the experience unless the iteration is over."""
        buffer: dict[str, Tensor | None] | None = None
        if self.experience is not None and self.position < len(self):
            # Plain tensors, so that a checkpoint loads with weights_only=True.
            buffer = {
                name: None if tensor is None else tensor.cpu() for name, tensor in self.experience.by_name().items()
            }
        over = self.position == len(self)
        return {
            "iteration": self.iteration + over,
            # Counted over all passes over the experience.
            "row": 0 if over else self.shares.row(self.position),
            "rollout_batch_size": self.rollout_batch_size,
            "minibatch_size": self.shares.minibatch_size,
            "num_parts": self.shares.num_parts,
            "ppo_epochs": self.ppo_epochs,
            "max_length": self.max_length_of_experience,
            "buffer": buffer,
        }

    def go_on(self, progress: Progress) -> None:
        """Continues from a saved position; the size of a minibatch may have changed.

        Raises:
            UserError: If another size has changed in the middle of an iteration, or no minibatch begins there.
        """
        row = progress["row"]
        sizes = {"rollout_batch_size": self.rollout_batch_size, "ppo_epochs": self.ppo_epochs}
        changed = [f"{name} was {progress[name]} and is {now}" for name, now in sizes.items() if now != progress[name]]
        if row and changed:
            raise UserError(
                f"the checkpoint was written within an iteration, and {' and '.join(changed)} now: continue with the "
                "old value, or from the end of an iteration"
            )
        self.iteration = progress["iteration"]
        self.position = self.shares.position(row, progress)
        if progress["buffer"] is not None:
            self.experience = Experience.from_names(progress["buffer"])
            # The limit that the experience was sampled with; that of the next iterations may be different.
            self.max_length_of_experience = progress["max_length"]
