"""Random prompts, in the place of data."""

import numpy as np

from lightning_rlhf.benchmark.lengths import prompt_lengths, random_ids
from lightning_rlhf.data.module import ResumableDataModule, ResumableLoader
from lightning_rlhf.data.prompts import Prompt, SamplesResponses
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError


class RandomPromptDataModule(ResumableDataModule):
    """Feeds a module that samples responses with prompts of random tokens, which are the same in each iteration."""

    def __init__(
        self, renderer: Renderer, *, num_prompts: int, shortest: int, longest: int, vocabulary: int, seed: int
    ) -> None:
        """Draws the prompts.

        Args:
            renderer: Knows the ids that end a response, which are not drawn.
            num_prompts: Number of prompts.
            shortest: Least number of tokens of a prompt.
            longest: Largest number of tokens of a prompt.
            vocabulary: Number of tokens that the model knows.
            seed: Seed of lengths and tokens.

        Raises:
            UserError: If a number is not positive, or the bounds of the lengths are in the wrong order.
        """
        super().__init__()
        if num_prompts < 1 or not 1 <= shortest <= longest:
            raise UserError(
                f"num_prompts={num_prompts}, shortest={shortest}, longest={longest}: all must be positive, and "
                "the shortest prompt must not be longer than the longest"
            )
        lengths = prompt_lengths(num_prompts, shortest, longest, seed)
        rows = random_ids(lengths, vocabulary, renderer.stop_ids, seed)
        self.train_prompts = [
            Prompt(np.array(ids, np.uint32), "", {"messages": [{"role": "user", "content": ""}]}) for ids in rows
        ]

    def make_train_loader(self) -> ResumableLoader:
        """Asks the module for the data set of responses to the prompts."""
        module = self.attached_trainer.lightning_module
        assert isinstance(module, SamplesResponses)
        return module.rollout_dataset(self.train_prompts, None)

    def val_dataloader(self) -> list[object]:
        """Makes no loader: a benchmark has no held-out prompts."""
        return []
