"""The phases of a run, such as a rollout. An algorithm enters a phase without knowing which strategy prepares it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from lightning_rlhf.distributed.shapes import lift_scalars, whole_shape
from lightning_rlhf.distributed.shards import shard
from lightning_rlhf.distributed.weight_stream import WeightStream, on_cpu

Net = TypeVar("Net", bound=nn.Module)
# Whether all ranks take part in each forward pass of the model that samples, so that they must take equally many steps.
_LAYERWISE: ContextVar[bool] = ContextVar("layerwise", default=False)


@runtime_checkable
class Sharding(Protocol):
    """What a strategy offers beyond Lightning's interface if its processes do not hold whole models or whole gradients.

    A process of any other strategy holds both, as on a single device and under DDP.
    """

    shards_parameters: bool
    """Whether weights are divided among the processes; otherwise only gradients or the optimizer's state are."""
    gather_for_generation: bool
    """Whether the model that samples is gathered once for a rollout instead of layer by layer for each token."""

    def rollout(self) -> AbstractContextManager[None]:
        """Returns a context for calls outside the training step: by all ranks together, and without gradients."""

    def whole(self, *nets: nn.Module, write: bool) -> AbstractContextManager[None]:
        """Returns a context in which this process holds whole weights, and can call the models without other ranks.

        Args:
            *nets: Submodules of the module that trains.
            write: Whether to keep what is written to the weights, which must be the same on every rank.
        """

    def named_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Puts the weights and buffers of a model together, one tensor after the other, on every process.

        All processes take part in each tensor, so all of them must iterate to the end.

        Args:
            model: The module that trains, or a submodule of it.

        Yields:
            The names that `state_dict` has, in its order, a tied weight under each of its names; and the whole tensor,
            detached, on the device of the process. Its memory is used again for the next tensor, so a consumer copies
            what it wants to keep.
        """

    def num_parameters(self, net: nn.Module, *, trained: bool = False) -> int:
        """Counts the weights of a model over all processes, or only those that are trained."""

    def trained_weights(self) -> list[Tensor]:
        """Returns this process's part of the weights that the optimizer changes; empty if they are out of reach.

        Where a strategy keeps fp32 copies under mixed precision, these are the copies.
        """

    def grad_norms(self) -> dict[str, Tensor] | None:
        """Returns the norm of each role's gradients before clipping; None if it is known only after the step."""

    def last_grad_norms(self) -> dict[str, Tensor] | None:
        """Returns the norms of the optimizer step that was just taken; None if `grad_norms` has returned them."""

    def release(self) -> None:
        """Frees the memory that training has left on the device; the weights of the module may be lost."""

    def clip_by_role(self, max_norm: float) -> None:
        """Clips the gradients of each role by their own norm, at once or in the next step of the optimizer."""


def sharding(trainer: Trainer) -> Sharding | None:
    """Returns the strategy of a trainer if it divides models or gradients."""
    return cast(Sharding, trainer.strategy) if isinstance(trainer.strategy, Sharding) else None


@contextmanager
def rollout_phase(trainer: Trainer, *nets: nn.Module, generator: nn.Module | None = None) -> Iterator[None]:
    """Prepares models for sampling and scoring: evaluation mode, no gradients, and the precision of the update.

    The modes of all modules are restored at the end.

    Args:
        trainer: Knows the precision. Lightning applies it in its own steps only, and a rollout happens between those.
            With log-probs in another precision the ratio of the first update would not be 1.
        *nets: The modules that hold all models that the phase calls.
        generator: The model that samples. If weights are divided, it is gathered once for the phase; the others are
            gathered layer by layer, because they see each sequence only once.
    """
    modes = {module: module.training for net in nets for module in net.modules()}
    for net in nets:
        net.eval()
    strategy = sharding(trainer)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(trainer.precision_plugin.forward_context())
            if strategy is not None:
                stack.enter_context(strategy.rollout())
                if generator is not None and strategy.gather_for_generation:
                    stack.enter_context(strategy.whole(generator, write=False))
                stack.callback(_LAYERWISE.reset, _LAYERWISE.set(not strategy.gather_for_generation))
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def place_generator(trainer: Trainer, net: Net) -> Net:
    """Moves a frozen model that is not part of the module to where it can sample in a rollout.

    The model goes to this process's device as a whole. If no process may hold the whole model that samples, it is
    divided among all processes instead, and each call gathers it block by block.

    Args:
        trainer: Knows the strategy.
        net: A whole model on the CPU.
    """
    strategy, device = sharding(trainer), trainer.strategy.root_device
    if strategy is None or not strategy.shards_parameters or strategy.gather_for_generation:
        return net.to(device)
    # This works under any strategy; a strategy's own way to divide is for the module that it trains.
    lift_scalars(net)
    shard(net.requires_grad_(False), init_device_mesh(device.type, (trainer.world_size,)))
    for buffer in net.buffers():
        buffer.data = buffer.data.to(device)
    return net


def finished_everywhere(finished: bool) -> bool:
    """Whether a rank may stop sampling. If the model is gathered layer by layer, that is when all ranks have finished.

    Otherwise a rank with shorter responses would leave the others waiting for its share of the weights.
    """
    if not _LAYERWISE.get() or not dist.is_initialized():
        return finished
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    number = torch.tensor(int(finished), device=device)
    dist.all_reduce(number, dist.ReduceOp.MIN)
    return bool(number)


@contextmanager
def whole(trainer: Trainer, *nets: nn.Module, write: bool = False) -> Iterator[None]:
    """Context in which this process holds the whole weights of some models; see `Sharding.whole`."""
    strategy = sharding(trainer)
    if strategy is None:
        yield
    else:
        with strategy.whole(*nets, write=write):
            yield


def shards_parameters(trainer: Trainer) -> bool:
    """Whether weights are divided among the processes."""
    strategy = sharding(trainer)
    return strategy is not None and strategy.shards_parameters


def named_weights(trainer: Trainer, model: nn.Module) -> WeightStream:
    """Streams the whole weights and buffers of a model to every process; see `Sharding.named_weights`.

    Example:
        >>> with named_weights(trainer, module.net) as weights:
        ...     for name, weight in weights: ...

    Args:
        trainer: Knows the strategy.
        model: The module that trains, or a submodule of it.
    """
    strategy = sharding(trainer)
    return WeightStream(iter(model.state_dict().items()) if strategy is None else strategy.named_weights(model))


def full_state_dict(trainer: Trainer, model: nn.Module) -> dict[str, Tensor]:
    """Returns all whole weights and buffers of a model, on the CPU of the first process; nothing on the others.

    A strategy that does not shard gives every process the state of the model itself, which shares its memory.
    """
    strategy = sharding(trainer)
    if strategy is None:
        return model.state_dict()
    return on_cpu(strategy.named_weights(model), keep=trainer.is_global_zero)


def num_parameters(trainer: Trainer, net: nn.Module, *, trained: bool = False) -> int:
    """Counts the weights of a model over all processes, or only those that are trained."""
    strategy = sharding(trainer)
    if strategy is not None:
        return strategy.num_parameters(net, trained=trained)
    return sum(whole_shape(weight).numel() for weight in net.parameters() if weight.requires_grad or not trained)


def trained_weights(trainer: Trainer) -> list[Tensor]:
    """Returns this process's part of the trained weights; see `Sharding.trained_weights`."""
    strategy = sharding(trainer)
    return of_optimizers(trainer.optimizers) if strategy is None else strategy.trained_weights()


def of_optimizers(optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """Lists the weights in the parameter groups of optimizers."""
    return [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]


def release(trainer: Trainer) -> None:
    """Frees the memory that training has left on the device, before another module trains in the same process.

    Without this call, some strategies keep that memory until the process ends. Afterwards, the weights of the trainer's
    module may not be used: a module that was divided has lost them.
    """
    strategy = sharding(trainer)
    if strategy is not None:
        strategy.release()
