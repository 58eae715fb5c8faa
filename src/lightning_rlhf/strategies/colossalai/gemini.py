"""Gemini, ColossalAI's ZeRO 3: trained weights lie in chunks that are divided among the processes.

Hooks gather a chunk when an operation uses one of its weights. Gemini's own hooks work only in a training step: they
count operations, measure memory and expect a backward pass. Outside a training step, the hook of `_layerwise` is used.
Frozen models are divided by other means; see `colossalai.frozen`. A frozen weight in a model that trains stays whole in
every process.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from lightning_rlhf.distributed import shards
from lightning_rlhf.strategies.colossalai.clipping import GeminiClipping, clip_on_cpu
from lightning_rlhf.strategies.colossalai.frozen import FrozenNets
from lightning_rlhf.strategies.colossalai.zero import keep_changes


class GeminiEngine:
    """Drives a `GeminiDDP` in training, in rollouts and when weights are read or written."""

    def __init__(self, ddp: Any, optimizer: Any, frozen: FrozenNets, device: torch.device) -> None:
        """Takes the boosted module and optimizer.

        Args:
            ddp: A `GeminiDDP`.
            optimizer: Its `GeminiOptimizer`.
            frozen: The frozen models, which the `GeminiDDP` does not contain.
            device: The device of this process.
        """
        self.ddp, self.optimizer, self.chunks, self.frozen = ddp, optimizer, ddp.chunk_manager, frozen
        self.mixin = optimizer.mix_precision_mixin
        self.parameters = {id(parameter): parameter for parameter in ddp.fp16_params}
        """The trained parameters, by id."""
        self.keys = {id(master): id(p) for p, master in zip(ddp.fp16_params, ddp.fp32_params, strict=True)}
        self.held: list[Any] = []
        # ddp.modules() would begin with the GeminiDDP itself.
        owners = [module for module in ddp.module.modules() if module._parameters]
        self.hooks = [module.register_forward_hook(_with_plain_output) for module in owners]
        clip_on_cpu(optimizer.optim)
        self.clipping = GeminiClipping(optimizer, device)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Enters the context in which the loss is computed."""
        from colossalai.tensor.param_op_hook import ColoParamOpHookManager

        # GeminiDDP.forward does the same, but would also round the floating-point numbers of the batch.
        self.ddp.gemini_manager.pre_iter()
        with ColoParamOpHookManager.use_hooks(*self.ddp.hooks):
            yield

    def backward(self, loss: Tensor) -> None:
        """Computes gradients, and divides them."""
        # After the first backward pass, placement_policy=auto prints how often it has measured (memstats_collector.py).
        with redirect_stdout(None) if self.ddp.gemini_manager.is_warmup() else nullcontext():
            self.optimizer.backward(loss)

    @contextmanager
    def rollout(self) -> Iterator[None]:
        """Lets all ranks together call models directly."""
        from colossalai.tensor.param_op_hook import ColoParamOpHookManager

        with ColoParamOpHookManager.use_hooks(_layerwise(self)):
            try:
                yield
            finally:
                self.scatter()
                self.frozen.scatter()

    def no_sync(self) -> AbstractContextManager[None]:
        """Returns an empty context: Gemini has no room for whole gradients, and reduces them in each backward pass."""
        return nullcontext()

    @contextmanager
    def whole(self, nets: tuple[nn.Module, ...], write: bool) -> Iterator[None]:
        """Gathers all chunks with weights of the models, and keeps what is written to them if `write` is set."""
        kinds = {
            parameter: type(parameter)
            for net in nets
            for parameter in net.parameters()
            if not isinstance(parameter, DTensor)
        }
        mine = self.chunks.get_chunks(parameter for parameter in kinds if id(parameter) in self.parameters)
        before = self.held
        self.held = [*before, *mine]
        for chunk in mine:
            self.chunks.access_chunk(chunk)
        try:
            # A ColoParameter would gather weights that are here already, and ignore `div_`; see `_with_plain_output`.
            for parameter in kinds:
                parameter.__class__ = nn.Parameter
            with self.frozen.whole(nets, write=write):
                yield
        finally:
            for parameter, kind in kinds.items():
                parameter.__class__ = kind
            self.held = before
            self.scatter()
        if write:
            for chunk in mine:
                keep_changes(chunk.payload, chunk.paired_chunk.payload)

    def gather_for(self, parameters: Iterable[Tensor]) -> None:
        """Gathers the weights of an operation, and divides all others again except those that are held."""
        chunks = self.chunks.get_chunks(p for p in parameters if id(p) in self.parameters)
        self.scatter(but=chunks)
        for chunk in chunks:
            self.chunks.access_chunk(chunk)

    def scatter(self, but: tuple[Any, ...] = ()) -> None:
        """Divides gathered chunks again and moves them to their place of rest, as GeminiDDP does after inference."""
        for chunk in list(self.chunks.accessed_chunks):
            if chunk in but or chunk in self.held:
                continue
            if chunk.keep_gathered:
                self.chunks.fake_release_chunk(chunk)
            else:
                self.chunks.release_chunk(chunk)
            # The copy is forced because the weights may have been written.
            rests_on = self.ddp.grads_device[next(iter(chunk.tensors_info))]
            self.chunks.move_chunk(chunk, rests_on, force_copy=True)

    def whole_weights(self, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields a whole tensor for each tensor: its master weight if it is trained, and otherwise itself.

        One chunk is gathered at a time, and neighbours in a module usually share a chunk. GeminiDDP's own `state_dict`
        would round master weights to 16 bits.
        """
        from colossalai.zero.gemini.utils import get_temp_total_chunk_on_cuda

        masters = {id(p): master for p, master in zip(self.ddp.fp16_params, self.ddp.fp32_params, strict=True)}
        gathered, numbers = None, torch.empty(0)
        for tensor in tensors:
            master = masters.get(id(tensor))
            if master is None:
                yield shards.whole_tensor(tensor)
                continue
            (chunk,) = self.chunks.get_chunks([master])
            if chunk is not gathered:
                # The memory of one chunk is freed before the next one is gathered.
                del numbers
                gathered, numbers = chunk, get_temp_total_chunk_on_cuda(chunk, torch.float32)
            place = chunk.tensors_info[master]
            yield numbers[place.offset : place.end].view(master.shape)

    def master_parts(self) -> list[Tensor]:
        """Returns this process's parts of the chunks of master weights, without padding."""
        return [
            chunk.payload[: chunk.utilized_size if chunk.is_gathered else chunk.valid_end]
            for chunk in self._master_chunks()
        ]

    @torch.no_grad()
    def load(self, weights: dict[int, Tensor]) -> None:
        """Sets weights and master weights.

        Args:
            weights: Whole weights, by the id of their parameter.
        """
        for chunk in self._master_chunks():
            begin, end = (0, chunk.chunk_size) if chunk.is_gathered else (chunk.shard_begin, chunk.shard_end)
            for master, place in chunk.tensors_info.items():
                first, last = max(begin, place.offset), min(end, place.end)
                weight = weights.get(self.keys[id(master)])
                if weight is not None and first < last:
                    part = weight.flatten()[first - place.offset : last - place.offset]
                    chunk.payload[first - begin : last - begin].copy_(part)
            chunk.paired_chunk.payload.copy_(chunk.payload)
            # Copies in pinned memory are now out of date.
            chunk.cpu_vis_flag = chunk.paired_chunk.cpu_vis_flag = False

    @torch.no_grad()
    def release(self) -> None:
        """Moves the weights to the CPU; they stay divided, because a process may not have room for all of them."""
        for hook in self.hooks:
            hook.remove()
        cpu = torch.device("cpu")
        for group in self.chunks.chunk_groups.values():
            for chunk in group:
                self.chunks.move_chunk(chunk, cpu, force_copy=True)
        with self.frozen.set_aside():
            for parameter in self.ddp.parameters():
                if id(parameter) not in self.parameters:
                    parameter.data = parameter.data.cpu()
            for buffer in self.ddp.buffers():
                buffer.data = buffer.data.cpu()
        self.frozen.release()
        # These caches belong to the classes, and would keep all chunks until the process ends.
        type(self.ddp.gemini_manager)._get_layout_info.cache_clear()
        if self.ddp.gemini_manager.policy_name == "auto":
            self.ddp.gemini_manager.placement_policy._sort_can_evict_chunks.cache_clear()

    def _master_chunks(self) -> tuple[Any, ...]:
        return self.chunks.get_chunks(self.ddp.fp32_params)


def _with_plain_output(module: nn.Module, arguments: object, output: object) -> object:
    """Turns the outputs of a module from ColoTensors into plain tensors.

    ColossalAI makes every result of its weights a ColoTensor, which nothing needs. But `add_`, `sub_`, `mul_` and
    `div_` do nothing if an operand is a ColoTensor (tensor/colo_tensor.py, `INPALCE_MAPPING`).
    """
    from colossalai.tensor import ColoTensor

    def plain(tensor: Tensor) -> Tensor:
        tensor.__class__ = Tensor
        return tensor

    return tree_map_only(ColoTensor, plain, output)


def _layerwise(engine: GeminiEngine) -> Any:
    """Returns a hook that gathers the weights of each operation."""
    from colossalai.tensor.param_op_hook import ColoParamOpHook

    class Layerwise(ColoParamOpHook):
        def pre_forward(self, params: list[Tensor]) -> None:
            engine.gather_for(params)

        def post_forward(self, params: list[Tensor]) -> None:
            pass

        def pre_backward(self, params: list[Tensor]) -> None:
            pass

        def post_backward(self, params: list[Tensor]) -> None:
            pass

    return Layerwise()
