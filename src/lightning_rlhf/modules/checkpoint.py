"""Keeps checkpoints small: they contain only weights that change, since frozen models are loaded from their source."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.active import adapter_layers

Checkpoint = dict[str, Any]
"""A Lightning checkpoint: weights, optimizer states, progress of the loops and of the data, each by its key."""


def beside_adapters(module: nn.Module) -> tuple[str, ...]:
    """Returns the prefixes of the frozen weights of models that have adapters.

    A prefix always names a whole layer without sublayers: a quantized layer saves more entries than its weight, and
    all of them have to be left out together.
    """
    found: dict[str, None] = {}
    for path, net in module.named_modules():
        if isinstance(net, PreTrainedModel) and adapter_layers(net):
            for name, layer in net.named_modules():
                weights = list(layer.parameters())
                if weights and not any(w.requires_grad for w in weights) and not any(True for _ in layer.children()):
                    found[f"{path}.{name}."] = None
    return tuple(found)


def leave_out(checkpoint: Checkpoint, unchanged: tuple[str, ...]) -> None:
    """Removes weights from a checkpoint before it is written.

    Args:
        checkpoint: The checkpoint; it has no `state_dict` if the strategy writes the weights itself.
        unchanged: Prefixes of the names of the weights to remove.
    """
    if "state_dict" in checkpoint:
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith(unchanged)}


def fill_in(checkpoint: Checkpoint, unchanged: tuple[str, ...], module: LightningModule) -> None:
    """Allows a module to load a checkpoint without the weights that `leave_out` removed.

    The module already has these weights. They are not added to the checkpoint, since a quantized layer cannot load its
    own saved state.

    Args:
        checkpoint: The checkpoint; it has no `state_dict` if the strategy reads the weights itself.
        unchanged: Prefixes of the names of the weights that were removed.
        module: The module that is going to load the checkpoint.

    Raises:
        UserError: If the names of the other weights are not exactly those of the module.
    """
    _recount_batches(checkpoint, module)
    if not unchanged or "state_dict" not in checkpoint:
        return
    expected = {name for name in module.state_dict() if not name.startswith(unchanged)}
    differing = expected ^ checkpoint["state_dict"].keys()
    if differing:
        raise UserError(
            f"the checkpoint is of another model: their weights differ in {', '.join(sorted(differing)[:3])}…"
        )
    module.strict_loading = False


def _recount_batches(checkpoint: Checkpoint, module: LightningModule) -> None:
    """Converts the number of batches of an unfinished epoch to the current size of a batch.

    Lightning ends an epoch after a number of batches, whereas the data modules save their position in rows.

    Raises:
        UserError: If the checkpoint was trained for more epochs than `max_epochs`.
    """
    data: Any = None if module._trainer is None else getattr(module.trainer, "datamodule", None)
    loader = checkpoint.get(type(data).__qualname__, {}).get("loader")
    if loader is None or "loops" not in checkpoint:
        return
    progress = checkpoint["loops"]["fit_loop"]
    trained, wanted = progress["epoch_progress"]["current"]["processed"], module.trainer.max_epochs
    if wanted is not None and 0 <= wanted < trained:
        raise UserError(f"max_epochs={wanted}: the checkpoint has trained {trained} epochs: give at least as many")
    minibatch_size = getattr(module, "minibatch_size", None) or data.minibatch_size
    old, new = loader["minibatch_size"] * module.trainer.accumulate_grad_batches, minibatch_size * loader["num_parts"]
    if old != new:
        batches = progress["epoch_loop.batch_progress"]["current"]
        # A checkpoint within an epoch is written before its last batch counts as completed.
        behind = batches["ready"] - batches["completed"]
        batches.update(dict.fromkeys(("ready", "started", "processed"), batches["ready"] * old // new))
        batches["completed"] = batches["ready"] - behind
