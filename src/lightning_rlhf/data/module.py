"""What the data modules share: a training loader whose place is kept in checkpoints."""

from abc import abstractmethod
from typing import Any, Protocol

from lightning.pytorch import LightningDataModule, Trainer


class ResumableLoader(Protocol):
    """A loader that can say where it stands, and go on from there."""

    def progress(self) -> dict[str, Any]:
        """Where it stands, in values that a checkpoint holds."""

    def go_on(self, progress: dict[str, Any]) -> None:
        """Continues from there."""


class ResumableDataModule(LightningDataModule):
    """Saves where the training loader stands, and goes on from there.

    Lightning's own way, loaders with a `state_dict`, restores nothing from a checkpoint at the end of an epoch, where
    ours would have to know which epoch comes next.
    """

    def __init__(self) -> None:
        """Starts at the beginning."""
        super().__init__()
        self._loader: ResumableLoader | None = None
        self._progress: dict[str, Any] | None = None

    @property
    def attached_trainer(self) -> Trainer:
        """The trainer that uses this data module."""
        assert self.trainer is not None
        return self.trainer

    @abstractmethod
    def make_train_loader(self) -> ResumableLoader:
        """Makes the training loader."""

    def train_dataloader(self) -> ResumableLoader:
        """The training loader, where a checkpoint left it."""
        self._loader = self.make_train_loader()
        if self._progress is not None:
            self._loader.go_on(self._progress)
        return self._loader

    def state_dict(self) -> dict[str, Any]:
        """The place of the training loader."""
        return {} if self._loader is None else {"loader": self._loader.progress()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the place of the training loader, before or after it was made: strategies differ in the order."""
        self._progress = state_dict.get("loader")
        if self._loader is not None and self._progress is not None:
            self._loader.go_on(self._progress)
