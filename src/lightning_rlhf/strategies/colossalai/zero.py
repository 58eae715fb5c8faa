"""ZeRO 1 and 2 of ColossalAI: every process holds whole weights and a share of the optimizer.

The share includes fp32 copies of its weights, the master weights. The weights that compute are the working weights.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_rlhf.strategies.colossalai.clipping import ZeroClipping


class ZeroEngine:
    """Drives a `LowLevelZeroOptimizer` in training, in rollouts and when weights are read or written."""

    def __init__(self, dtypes: dict[nn.Parameter, torch.dtype], optimizer: Any, device: torch.device) -> None:
        """Takes the boosted optimizer.

        Args:
            dtypes: The dtypes of all parameters of the module before they were cast.
            optimizer: A `LowLevelZeroOptimizer`.
            device: The device of this process.
        """
        self.dtypes, self.optimizer = dtypes, optimizer
        self.mixin = optimizer.mixed_precision_mixin
        masters = optimizer.get_working_to_master_map()
        self.parameters = {id(parameter): parameter for parameter in dtypes if id(parameter) in masters}
        """The trained parameters, by id."""
        self.clipping = ZeroClipping(optimizer, device)

    def training(self) -> AbstractContextManager[None]:
        """Returns the context in which the loss is computed."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Computes gradients, and reduces them except in `no_sync`."""
        self.optimizer.backward(loss)

    def rollout(self) -> AbstractContextManager[None]:
        """Returns an empty context: models may be called directly at any time."""
        return nullcontext()

    def no_sync(self) -> AbstractContextManager[None]:
        """Returns a context in which gradients are not reduced, except in stage 2, which has no room for whole ones."""
        return nullcontext() if self.optimizer._partition_grads else self.optimizer.no_sync()

    @contextmanager
    def whole(self, nets: tuple[nn.Module, ...], write: bool) -> Iterator[None]:
        """Keeps what is written to the weights if `write` is set; the weights are always whole."""
        yield
        if write:
            for parameter in {parameter for net in nets for parameter in net.parameters()}:
                if id(parameter) in self.parameters:
                    keep_changes(self._share(parameter), self._master(parameter))

    def whole_weights(self, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields a whole tensor for each tensor: its master weight if it is trained, and otherwise itself."""
        for tensor in tensors:
            yield self._whole_master(tensor) if id(tensor) in self.parameters else tensor

    def master_parts(self) -> list[Tensor]:
        """Returns this process's parts of the master weights."""
        return [self._master(parameter) for parameter in self.parameters.values()]

    @torch.no_grad()
    def load(self, weights: dict[int, Tensor]) -> None:
        """Sets weights and master weights.

        Args:
            weights: Whole weights, by the id of their parameter.
        """
        for key, weight in weights.items():
            parameter = self.parameters[key]
            parameter.copy_(weight)
            self._master(parameter).copy_(self._share(weight))

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the weights their original dtypes back; the numbers of trained weights come from the master weights."""
        for parameter, dtype in self.dtypes.items():
            if parameter.dtype != dtype:
                trained = id(parameter) in self.parameters
                parameter.data = (self._whole_master(parameter) if trained else parameter.data).to(dtype)

    def release(self) -> None:
        """Removes the hooks from the module, without communication, because another process may have failed."""
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
        """Returns this process's part of a whole weight; zeros make the parts equal (`_create_master_param_…`)."""
        flat, processes = weight.detach().flatten(), dist.get_world_size()
        return nn.functional.pad(flat, (0, -flat.numel() % processes)).chunk(processes)[dist.get_rank()]


@torch.no_grad()
def keep_changes(working: Tensor, master: Tensor) -> None:
    """Copies changed working weights to the master weights; unchanged weights keep their fp32 digits.

    Args:
        working: (N,) current working weights, which were the rounded master weights before they were written.
        master: (N,) fp32 master weights, perhaps on the CPU.
    """
    new = working.to(master.device)
    torch.where(new == master.to(new.dtype), master, new.to(master.dtype), out=master)
