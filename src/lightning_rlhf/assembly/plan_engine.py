"""Reads from a configuration what the planner needs to know of a rollout engine."""

from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import DTYPES, ModelSource
from lightning_rlhf.planner.own_engine import OwnEngine


def own_engine(node: DictConfig, source: ModelSource) -> OwnEngine | None:
    """Returns the memory of the engine; None if the trained model itself samples.

    Args:
        node: The settings of the engine. One that samples on the device of the trainer has `cache_gib`.
        source: The source of the actor, whose dtype is that of the engine if it has none of its own.

    Raises:
        UserError: If there is no such dtype.
    """
    if get_object(node["_target_"]).shares_weights:
        return None
    if "cache_gib" not in node:
        return OwnEngine()
    if node.dtype is not None and node.dtype not in DTYPES:
        raise UserError(f"rollout.engine.dtype={node.dtype}: must be one of {', '.join(DTYPES)}, or null")
    dtype = source.torch_dtype if node.dtype is None else DTYPES[node.dtype]
    return OwnEngine(cache_bytes=round(node.cache_gib * 2**30), dtype=dtype)


def sampler_settings(node: DictConfig, at_a_time: int) -> dict[str, Any]:
    """Returns the settings of a `Job` that say how the trained model itself samples.

    Args:
        node: The settings of the engine. The native one has `max_rows` and `prefill_tokens`.
        at_a_time: Number of responses that are scored at a time, which is usually also the number of rows.
    """
    rows = node.get("max_rows", node.get("micro_batch_size"))
    return {"max_rows": None if rows == at_a_time else rows, "prefill_tokens": node.get("prefill_tokens")}
