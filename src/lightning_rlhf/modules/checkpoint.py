"""A checkpoint holds what changes; nets that stay as they were built come from where they came from."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.active import adapter_layers


def beside_adapters(module: nn.Module) -> tuple[str, ...]:
    """Prefixes of the frozen weights of nets that have adapters.

    Of layers only, and whole ones: a quantized layer has more to its name than a weight.
    """
    found: dict[str, None] = {}
    for path, net in module.named_modules():
        if isinstance(net, PreTrainedModel) and adapter_layers(net):
            for name, layer in net.named_modules():
                weights = list(layer.parameters())
                if weights and not any(w.requires_grad for w in weights) and not any(True for _ in layer.children()):
                    found[f"{path}.{name}."] = None
    return tuple(found)


def leave_out(checkpoint: dict[str, Any], unchanged: tuple[str, ...]) -> None:
    """Takes weights out of a checkpoint that is to be written.

    Args:
        checkpoint: Without `state_dict` where a strategy writes the weights itself.
        unchanged: Prefixes of their names.
    """
    if "state_dict" in checkpoint:
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith(unchanged)}


def fill_in(checkpoint: dict[str, Any], unchanged: tuple[str, ...], module: LightningModule) -> None:
    """Lets a checkpoint be loaded into a module that has the weights that were left out already.

    They are not put into the checkpoint: a quantized layer cannot load what it saves.

    Args:
        checkpoint: What was read, without `state_dict` where a strategy reads the weights itself.
        unchanged: Prefixes of the names of what was left out.
        module: What is going to load it.

    Raises:
        UserError: If it does not hold all others, or holds more.
    """
    _recount_batches(checkpoint, module)
    if not unchanged or "state_dict" not in checkpoint:
        return
    expected = {name for name in module.state_dict() if not name.startswith(unchanged)}
    differing = expected ^ checkpoint["state_dict"].keys()
    if differing:
        raise UserError(f"the checkpoint is of another net: they differ in {', '.join(sorted(differing)[:3])}…")
    module.strict_loading = False


def _recount_batches(checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Counts the batches of an epoch that is not over in their present size: Lightning ends an epoch by their number.

    The data modules keep their place in rows.

    Raises:
        UserError: If more epochs were trained than are asked for.
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
