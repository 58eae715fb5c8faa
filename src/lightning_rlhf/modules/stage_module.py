"""What the modules of all stages do alike for Lightning, and what callbacks and checks ask a module of any stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.blocks import models_in
from lightning_rlhf.distributed.checkpoint_files import keep_last_file
from lightning_rlhf.distributed.half_precision import keep_digits
from lightning_rlhf.distributed.launcher_watch import tell_of_killed_ranks
from lightning_rlhf.errors import UserError
from lightning_rlhf.modules.arguments import read_arguments
from lightning_rlhf.modules.checkpoint import beside_adapters, leave_out
from lightning_rlhf.process import return_freed_memory
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.strategies.checkpoint_weights import read_checkpoint


class StageModule(LightningModule):
    """The module of a stage, ours or one of your own. Callbacks and checks ask it what stands here, and nothing else.

    A module of your own:

    - has a `renderer`, with which its data module was made, and builds its models in `configure_model`, as attributes;
    - returns `loss * undo_averaging(self.trainer)` from `training_step`, where the loss is the share of the batch in
      that of the minibatch, and gives `log_share` the same loss under the name `loss`;
    - returns the optimizer and its schedule from `configure_optimizers`; `modules.optim.configure` makes them;
    - answers `export_nets` if it is to be exported, averaged (`EMA`) or kept at its best (`Best`);
    - overrides `learners`, `start_distance` or `unchanged` if the defaults do not fit;
    - passes its arguments on with `modules.arguments.remembers_arguments` and `save_arguments` if
      `load_from_checkpoint` is to need the file alone.

    `sampling` stays None. A module that trains on its own samples derives from `PPOModule`, because the checks of a
    rollout are about its roles and its engine. The preview of answers is for modules that derive from `SFTModule`.
    """

    renderer: Renderer
    """Turns conversations into tokens, and tokens into text."""
    sampling: Sampling | None = None
    """The distribution from which the module samples the responses that it trains on; None if it samples none."""

    def __init__(self) -> None:
        """Starts without shares of a minibatch."""
        super().__init__()
        self.shares: dict[str, Tensor] = {}
        self.totals: dict[str, Tensor] = {}

    def log_share(self, shares: Mapping[str, Tensor]) -> None:
        """Adds the share of a micro-batch to metrics, which are logged as `train/<name>` when the step is taken.

        In a stage that samples, the mean over the steps of an iteration is logged. Progress bars and alarms take the
        loss of a step from the share that is named `loss`.

        Args:
            shares: Scalars by name. The metric of the minibatch is their sum over all ranks and accumulated parts, as
                that of its loss is; see `optim.undo_averaging`.
        """
        for name, share in shares.items():
            self.shares[name] = self.shares.get(name, 0) + share.detach()

    def on_train_start(self) -> None:
        """Forgets the shares of a step that was interrupted, and returns the memory in which weights were read."""
        self.shares, self.totals = {}, {}
        return_freed_memory()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the metrics of the minibatch, before any callback that ends a run after this step."""
        if not self.shares or not _is_whole(self.trainer):
            return
        mine = torch.stack([share.float() for share in self.shares.values()])
        of_all_ranks = self.trainer.strategy.reduce(mine, reduce_op="sum")
        self.totals, self.shares = dict(zip(self.shares, of_all_ranks, strict=True)), {}
        metrics = {f"train/{name}": total for name, total in self.totals.items()}
        per_epoch = samples(self)
        self.log_dict(metrics, on_step=not per_epoch, on_epoch=per_epoch, batch_size=1)

    def setup(self, stage: str) -> None:
        """Applies the settings that every stage needs, whoever made the trainer.

        Raises:
            UserError: If the precision of the trainer would round the numbers of a batch.
        """
        keep_digits(self.trainer)
        keep_last_file(self.trainer)
        tell_of_killed_ranks()

    def export_nets(self) -> dict[str, nn.Module]:
        """Returns the models to export by the name of their folder; the trained model is `model`.

        Raises:
            NotImplementedError: If the module names none; an export needs one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no export_nets, which an export needs")

    def learners(self) -> list[nn.Module]:
        """Returns the models that each token of an update passes through, forwards and backwards."""
        return trained_models(self)

    def start_distance(self, batch: object) -> float | None:
        """Measures how far the trained model is from its reference on the first batch, where the two must be equal.

        All processes call it before the first step, with their own batch.

        Args:
            batch: A batch of the data module.

        Returns:
            The mean absolute difference of a token's log-probs in nats, or None if the module has no reference, or
            measures it elsewhere.
        """
        return None

    def unchanged(self) -> tuple[str, ...]:
        """Returns the prefixes of weights that never change: frozen weights beside adapters."""
        return beside_adapters(self)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: torch.device | str = "cpu", **arguments: object
    ) -> Self:
        """Builds a module with the weights of a checkpoint.

        Args:
            checkpoint_path: A file, or a folder that a sharding strategy has written. It need not be trusted.
            map_location: The device of the module.
            **arguments: Arguments of the constructor. They replace those that the checkpoint describes, and are needed
                where it cannot describe them: models, functions of your own, the engine `VllmServerEngine`, and
                rewards that ask a server, a judge or a net of your own.

        Raises:
            UserError: If this is no checkpoint of such a module, it could run code, or an argument is missing.
        """
        path = Path(checkpoint_path).expanduser()
        call = f"{cls.__name__}.load_from_checkpoint({str(checkpoint_path)!r})"
        if not path.exists():
            raise UserError(f"{call}: there is no such file or folder ({path.absolute()})")
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            # The command line has a setting of this name.
            raise UserError(f"{call}: {str(error).removeprefix('checkpoint=')}") from error
        module = cls(**read_arguments(checkpoint, cls, call, arguments))
        module.configure_model()
        # A strategy may have written frozen weights too.
        leave_out(checkpoint, module.unchanged())
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
        return module.to(map_location)


def _is_whole(trainer: Trainer) -> bool:
    """Whether a minibatch is complete. A strategy that accumulates itself has a step of Lightning for each part."""
    done = trainer.fit_loop.batch_idx + 1
    return not trainer.strategy.handles_gradient_accumulation or done % trainer.accumulate_grad_batches == 0


def samples(module: nn.Module) -> bool:
    """Whether a module trains on its own samples: an epoch is then an iteration, a rollout and its updates."""
    return getattr(module, "sampling", None) is not None


def trained_models(module: nn.Module) -> list[nn.Module]:
    """The models in a module that have weights to train."""
    return [net for net in models_in(module) if any(weight.requires_grad for weight in net.parameters())]
