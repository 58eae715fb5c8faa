"""The memory of a rollout engine that has weights of its own, such as vLLM in the process that trains."""

from collections import Counter
from dataclasses import dataclass

import torch

from lightning_rlhf.planner.memory import Bytes
from lightning_rlhf.planner.weights import Sizes


@dataclass(frozen=True, kw_only=True)
class OwnEngine:
    """What such an engine holds on the device of the trainer."""

    cache_bytes: int = 0
    """Bytes of keys and values, which the engine reserves at once."""
    dtype: torch.dtype | None = None
    """The dtype of its weights; None if it holds none on this device, since it is on another one."""

    def memory(self, sizes: Sizes) -> Bytes:
        """The bytes that it holds while it is awake.

        Args:
            sizes: The sizes of the models of the stage. The engine has a plain copy of the model that samples.
        """
        weights = 0 if self.dtype is None else self.dtype.itemsize * (sizes.policy or sizes.generator).count
        return Counter({("", "parameters"): weights, ("", "kv_cache"): self.cache_bytes})
