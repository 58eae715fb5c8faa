"""The engine that ColossalAIStrategy drives: `ZeroEngine` for stages 1 and 2, `GeminiEngine` for stage 3."""

from collections.abc import Iterator

from torch import Tensor, nn

from lightning_rlhf.strategies.colossalai.gemini import GeminiEngine
from lightning_rlhf.strategies.colossalai.zero import ZeroEngine

Engine = ZeroEngine | GeminiEngine


def named_weights(
    engine: Engine | None, module: nn.Module, *, skip: tuple[str, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """Yields the whole weights and buffers of a module by name; trained weights are the fp32 master weights.

    Args:
        engine: The engine that trains the module; None if the module is not divided.
        module: The module that trains, or a submodule of it.
        skip: Prefixes of the names that are left out.
    """
    state = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if not name.startswith(skip)}
    whole = engine.whole_weights(state.values()) if engine else state.values()
    for name, tensor in zip(state, whole, strict=True):
        # Reading a checkpoint with tensors of ColossalAI's own types would need ColossalAI.
        yield name, tensor.detach().as_subclass(Tensor)
