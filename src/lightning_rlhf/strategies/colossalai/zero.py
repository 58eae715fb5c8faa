"""ZeRO 1 and 2 of ColossalAI: weights are whole in every process; each holds a share of the optimizer.

The share has an fp32 copy of its weights, the master weights, beside the weights that compute ("working").
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_rlhf.strategies.colossalai.clipping import ZeroClipping


class ZeroEngine:
    """Does what a `LowLevelZeroOptimizer` needs around training."""

    def __init__(self, dtypes: dict[nn.Parameter, torch.dtype], optimizer: Any, device: torch.device) -> None:
        """Takes the boosted optimizer.

        Args:
            dtypes: What all parameters of the module were before they were cast.
            optimizer: A `LowLevelZeroOptimizer`.
            device: Of this process.
        """
        self.dtypes, self.optimizer = dtypes, optimizer
        self.mixin = optimizer.mixed_precision_mixin
        masters = optimizer.get_working_to_master_map()
        self.parameters = {id(parameter): parameter for parameter in dtypes if id(parameter) in masters}
        """Those that are trained, by id."""
        self.clipping = ZeroClipping(optimizer, device)

    def training(self) -> AbstractContextManager[None]:
        """Returns the context in which the loss is computed."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Computes gradients, and reduces them unless in `no_sync`."""
        self.optimizer.backward(loss)

    def rollout(self) -> AbstractContextManager[None]:
        """Returns an empty context: models may be called directly at any time."""
        return nullcontext()

    def no_sync(self) -> AbstractContextManager[None]:
        """Returns a context in which gradients are not reduced; stage 2 has no room for that and reduces them."""
        return nullcontext() if self.optimizer._partition_grads else self.optimizer.no_sync()

    @contextmanager
    def whole(self, nets: tuple[nn.Module, ...], write: bool) -> Iterator[None]:
        """Lets weights be written if `write` is set; they are whole in any case."""
        yield
        if write:
            for parameter in {parameter for net in nets for parameter in net.parameters()}:
                if id(parameter) in self.parameters:
                    keep_changes(self._share(parameter), self._master(parameter))

    def whole_weights(self, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
        """Whole master weights of those parameters that are trained, and all other tensors as they are."""
        for tensor in tensors:
            yield self._whole_master(tensor) if id(tensor) in self.parameters else tensor

    def master_parts(self) -> list[Tensor]:
        """This process's parts of the master weights."""
        return [self._master(parameter) for parameter in self.parameters.values()]

    @torch.no_grad()
    def load(self, weights: dict[int, Tensor]) -> None:
        """Sets weights and master weights.

        Args:
            weights: Whole ones, by the id of their parameter.
        """
        for key, weight in weights.items():
            parameter = self.parameters[key]
            parameter.copy_(weight)
            self._master(parameter).copy_(self._share(weight))

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the module's weights the dtype back that they came in: the trained ones from the masters."""
        for parameter, dtype in self.dtypes.items():
            if parameter.dtype != dtype:
                trained = id(parameter) in self.parameters
                parameter.data = (self._whole_master(parameter) if trained else parameter.data).to(dtype)

    def release(self) -> None:
        """Takes the hooks off the module; asks no other process, since one of them may have failed."""
        for handle in self.optimizer.grad_handles:
            handle.remove()

    def _master(self, parameter: Tensor) -> Tensor:
        return self.optimizer.get_working_to_master_map()[id(parameter)]

    def _whole_master(self, parameter: Tensor) -> Tensor:
        if parameter.dtype == torch.float32:
            return parameter.detach()
        master = self._master(parameter).to(parameter.device)
        padded = torch.empty(master.numel() * dist.get_world_size(), dtype=master.dtype, device=master.device)
        dist.all_gather_into_tensor(padded, master)
        return padded[: parameter.numel()].view(parameter.shape)

    @staticmethod
    def _share(weight: Tensor) -> Tensor:
        """This process's part of a whole weight: an equal one after zeros at the end (`_create_master_param_…`)."""
        flat, processes = weight.detach().flatten(), dist.get_world_size()
        return nn.functional.pad(flat, (0, -flat.numel() % processes)).chunk(processes)[dist.get_rank()]


@torch.no_grad()
def keep_changes(working: Tensor, master: Tensor) -> None:
    """Carries what was written to working weights over to their masters; the others keep their fp32 digits.

    Args:
        working: (N,) as they are.
        master: (N,) fp32, perhaps on the CPU; working weights were these, rounded.
    """
    new = working.to(master.device)
    torch.where(new == master.to(new.dtype), master, new.to(master.dtype), out=master)
