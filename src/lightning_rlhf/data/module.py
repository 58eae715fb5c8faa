"""The base of the data modules: their training loader saves its position in checkpoints."""

from abc import abstractmethod
from typing import Any, Protocol

from lightning.pytorch import LightningDataModule, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_rlhf.errors import older_version

Progress = dict[str, Any]
"""Position of a loader by name, in values that a checkpoint can contain."""


class ResumableLoader(Protocol):
    """A loader that can report its position and continue from it."""

    def progress(self) -> Progress:
        """Returns the position."""

    def go_on(self, progress: Progress) -> None:
        """Continues from a saved position."""


class ResumableDataModule(LightningDataModule):
    """Saves the position of the training loader, and continues from it.

    Lightning's own mechanism, loaders with a `state_dict`, restores nothing from a checkpoint at the end of an epoch.
    Our loaders must know there which epoch comes next.
    """

    def __init__(self) -> None:
        """Starts at the beginning of the data."""
        super().__init__()
        self._loader: ResumableLoader | None = None
        self._progress: Progress | None = None

    @property
    def attached_trainer(self) -> Trainer:
        """The trainer that uses this data module."""
        assert self.trainer is not None
        return self.trainer

    @abstractmethod
    def make_train_loader(self) -> ResumableLoader:
        """Makes the training loader."""

    def train_dataloader(self) -> ResumableLoader:
        """Makes the training loader, at the position from the checkpoint."""
        self._loader = self.make_train_loader()
        if self._progress is not None:
            _go_on(self._loader, self._progress)
        return self._loader

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Puts a batch for a GPU into page-locked memory, from which Lightning copies it while the GPU computes.

        Without it, the copy waits for the GPU, and the GPU then waits for the next kernels.
        """
        if self.attached_trainer.strategy.root_device.type != "cuda":
            return batch
        return apply_to_collection(batch, Tensor, lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())

    def state_dict(self) -> dict[str, Progress]:
        """Returns the position of the training loader."""
        return {} if self._loader is None else {"loader": self._loader.progress()}

    def load_state_dict(self, state_dict: dict[str, Progress]) -> None:
        """Restores the position; the loader may exist already or not, because strategies differ in the order."""
        self._progress = state_dict.get("loader")
        if self._loader is not None and self._progress is not None:
            _go_on(self._loader, self._progress)


def _go_on(loader: ResumableLoader, progress: Progress) -> None:
    try:
        loader.go_on(progress)
    except KeyError as error:
        raise older_version(error) from error
