"""Prints the models of a run and the memory that they take before anything is computed."""

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table
from torch import nn

from lightning_rlhf.console import console
from lightning_rlhf.distributed.phases import num_parameters
from lightning_rlhf.models.adapters.merging import is_quantized
from lightning_rlhf.sizes import readable


class NetTable(Callback):
    """Prints a table of the models when training begins: parameters and memory of weights, gradients and optimizer."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table."""
        if not trainer.is_global_zero:
            return
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for name in ("model", "parameters", "trained", "weights", "gradients, optimizer"):
            table.add_column(name, justify="left" if name == "model" else "right")
        for name, net in models_by_role(pl_module).items():
            table.add_row(name, *_cells(net, trainer))
        console.table(table)
        for name, reason in getattr(pl_module, "absent_nets", dict)().items():
            console.say(f" {name}: {reason}")


def models_by_role(module: nn.Module) -> dict[str, nn.Module]:
    """Returns the models of a module by role; a model that several roles share appears once.

    The only model of SFT or of a reward model, the attribute `net`, is called `model`.
    """
    holder = getattr(module, "roles", module)
    return {
        "model" if name == "net" else name: net
        for name, net in holder.named_children()
        if any(True for _ in net.parameters())
    }


def _cells(net: nn.Module, trainer: Trainer) -> list[str]:
    count, trained = (num_parameters(trainer, net, trained=only) for only in (False, True))
    item = next(net.parameters()).element_size()
    # Quantized models are not divided among processes.
    weights = sum(weight.nbytes for weight in net.parameters()) if is_quantized(net) else count * item
    # The gradient and the two moments of the optimizer have the dtype of the weights.
    return [f"{count / 1e6:,.2f} M", "yes" if trained else "no", readable(weights), readable(3 * trained * item)]
