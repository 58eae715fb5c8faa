"""What a strategy must do around a phase. Algorithms enter a phase and never learn which strategy runs."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Protocol, Self, TypeVar, cast, runtime_checkable

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from lightning_rlhf.distributed.gradient_norms import gradients, shrink, whole_norms
from lightning_rlhf.distributed.shapes import lift_scalars, whole_shape
from lightning_rlhf.distributed.shards import shard
from lightning_rlhf.errors import UserError

Net = TypeVar("Net", bound=nn.Module)
# Whether each forward of the net that samples is one of all ranks together: then they sample equally many tokens.
_LAYERWISE: ContextVar[bool] = ContextVar("layerwise", default=False)


@runtime_checkable
class Sharding(Protocol):
    """What a strategy adds to Lightning's if a process does not hold whole nets, or not their gradients.

    A strategy without it holds both, as on a single device and under DDP.
    """

    shards_parameters: bool
    """Whether weights are spread over the processes; otherwise only gradients or the optimizer's state are."""
    gather_for_generation: bool
    """Whether a net that samples is gathered once for a rollout, not layer by layer for each token."""

    def rollout(self) -> AbstractContextManager[None]:
        """In it nets may be called outside the module's training step, without gradients, on all ranks together."""

    def whole(self, *nets: nn.Module, write: bool) -> AbstractContextManager[None]:
        """In it this process holds the whole weights of the nets: as tensors to read, and calls that ask no rank.

        Args:
            *nets: Submodules of the module that trains.
            write: Whether what is written to the weights, alike on every rank, is to stay.
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
        """How many weights a net has over all processes; or only those that are trained."""

    def trained_weights(self) -> list[Tensor]:
        """This process's part of the trained weights, as the optimizer steps on them; empty where it is out of reach.

        Under mixed precision that is the fp32 copies, where the strategy keeps some.
        """

    def grad_norms(self) -> dict[str, Tensor] | None:
        """Norm of each role's gradients before clipping; None where it is known only after the optimizer's step."""

    def last_grad_norms(self) -> dict[str, Tensor] | None:
        """The same of the optimizer step that was just taken; None where `grad_norms` gave it before."""

    def release(self) -> None:
        """Frees what training has left in the device's memory; the weights of the module may be lost with it."""

    def clip_by_role(self, max_norm: float) -> None:
        """Clips the gradients of each role by their own norm, or has the step that comes do so, if the step clips."""


def sharding(trainer: Trainer) -> Sharding | None:
    """The strategy, if it shards."""
    return cast(Sharding, trainer.strategy) if isinstance(trainer.strategy, Sharding) else None


@contextmanager
def rollout_phase(trainer: Trainer, *nets: nn.Module, generator: nn.Module | None = None) -> Iterator[None]:
    """Sampling and scoring: no gradients, evaluation mode, both restored afterwards; the precision of the update.

    Args:
        trainer: Knows the precision. Lightning enters it for its own steps, but a rollout happens between those, and
            log-probs in another precision than the update's would make a ratio that is not 1 at its start.
        *nets: The modules that hold all nets that the phase calls.
        generator: The net that samples. Where weights are sharded it is gathered once for the phase; the others are
            gathered layer by layer, since they see each sequence once.
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
    """Puts a frozen net that is no part of the module where it can sample in a rollout.

    It is whole on this process's device, or divided among all processes if no process is to hold a whole net to sample
    with: then each call gathers it block by block.

    Args:
        trainer: Knows the strategy.
        net: Whole, on the CPU.
    """
    strategy, device = sharding(trainer), trainer.strategy.root_device
    if strategy is None or not strategy.shards_parameters or strategy.gather_for_generation:
        return net.to(device)
    # Any strategy's processes can do this; its own way to divide is for the module that it trains.
    lift_scalars(net)
    shard(net.requires_grad_(False), init_device_mesh(device.type, (trainer.world_size,)))
    for buffer in net.buffers():
        buffer.data = buffer.data.to(device)
    return net


def finished_everywhere(finished: bool) -> bool:
    """Whether a rank may stop sampling: with a net that is gathered layer by layer, only when all ranks may.

    Ranks whose responses are shorter would otherwise leave the others waiting for their share of the weights.
    """
    if not _LAYERWISE.get() or not dist.is_initialized():
        return finished
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    number = torch.tensor(int(finished), device=device)
    dist.all_reduce(number, dist.ReduceOp.MIN)
    return bool(number)


@contextmanager
def whole(trainer: Trainer, *nets: nn.Module, write: bool = False) -> Iterator[None]:
    """In it this process holds the whole weights of the nets; see `Sharding.whole`."""
    strategy = sharding(trainer)
    if strategy is None:
        yield
    else:
        with strategy.whole(*nets, write=write):
            yield


def shards_parameters(trainer: Trainer) -> bool:
    """Whether no process holds whole nets."""
    strategy = sharding(trainer)
    return strategy is not None and strategy.shards_parameters


class WeightStream(Iterator[tuple[str, Tensor]]):
    """Names and whole tensors, one after the other; a tensor is valid until the next one is asked for.

    All processes take part in each tensor, so one that stops early would leave the others waiting for the next. Used as
    a context, the stream runs to its end in any case, also if work on a tensor has failed or none was asked for.
    """

    def __init__(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Takes what a strategy streams."""
        self._weights = weights

    def __next__(self) -> tuple[str, Tensor]:
        """The next name and tensor."""
        return next(self._weights)

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Takes part in the tensors that are left."""
        for _ in self._weights:
            pass


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
    """All whole weights and buffers of a model: on the CPU of the first process, and empty on the others.

    A strategy that does not shard gives every process the state of the model itself, which shares its memory.
    """
    strategy = sharding(trainer)
    if strategy is None:
        return model.state_dict()
    return on_cpu(strategy.named_weights(model), keep=trainer.is_global_zero)


def on_cpu(weights: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Copies streamed weights to the CPU; a process that does not keep them only takes part in the stream."""
    return {name: weight.to("cpu", copy=True) for name, weight in weights if keep}


def num_parameters(trainer: Trainer, net: nn.Module, *, trained: bool = False) -> int:
    """How many weights a net has over all processes; or only those that are trained."""
    strategy = sharding(trainer)
    if strategy is not None:
        return strategy.num_parameters(net, trained=trained)
    return sum(whole_shape(weight).numel() for weight in net.parameters() if weight.requires_grad or not trained)


def grad_norms(trainer: Trainer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor] | None:
    """Norm of the gradients of each role before clipping, in fp32; asked for before the optimizer's step.

    Returns:
        None where it is known only after the step; empty if there are no gradients.
    """
    strategy = sharding(trainer)
    return whole_norms(gradients(optimizer)) if strategy is None else strategy.grad_norms()


def trained_weights(trainer: Trainer) -> list[Tensor]:
    """This process's part of the trained weights; see `Sharding.trained_weights`."""
    strategy = sharding(trainer)
    return of_optimizers(trainer.optimizers) if strategy is None else strategy.trained_weights()


def of_optimizers(optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """The weights in the groups of optimizers."""
    return [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]


def last_grad_norms(trainer: Trainer) -> dict[str, Tensor] | None:
    """The same of the step that was just taken; None where `grad_norms` gave it before."""
    strategy = sharding(trainer)
    return None if strategy is None else strategy.last_grad_norms()


def release(trainer: Trainer) -> None:
    """Frees what training has left in the device's memory, before another module trains in the same process.

    Without it some strategies keep that memory until the process ends. Nothing may be asked of the trainer's weights
    afterwards: a module that was divided has none any more.
    """
    strategy = sharding(trainer)
    if strategy is not None:
        strategy.release()


def clip_by_role(trainer: Trainer, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Clips the gradients of each role by their own norm; for `configure_gradient_clipping`.

    Args:
        trainer: Knows the strategy.
        optimizer: Its groups bear the names of roles, see `clipping`.
        max_norm: Of each role's gradients.

    Raises:
        UserError: If the optimizer takes the loss scale of fp16 off the gradients only in its step.
    """
    # What Lightning's plugin for mixed precision refuses too, when it clips.
    if getattr(optimizer, "_step_supports_amp_scaling", False) and trainer.scaler is not None:
        raise UserError(
            f"trainer.gradient_clip_val={max_norm}: under 16-mixed a fused optimizer unscales gradients in its step, "
            "after they are clipped: set optim.optimizer.fused=false, or take trainer.precision=bf16-mixed"
        )
    strategy = sharding(trainer)
    if strategy is None:
        roles = gradients(optimizer)
        shrink(roles, whole_norms(roles), max_norm)
    else:
        strategy.clip_by_role(max_norm)
