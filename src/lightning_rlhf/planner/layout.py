"""The layout of a strategy, which says what it holds where. It is read from the node `trainer.strategy`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lightning_rlhf.errors import UserError

Place = Literal["device", "cpu", "nvme"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of a run that the processes divide among them, and those that the host memory holds."""

    engine: Literal["single", "ddp", "fsdp", "fsdp2", "deepspeed", "colossalai"] = "single"
    stage: Literal[0, 1, 2, 3] = 0
    """1 if the processes divide the optimizer state among them, 2 if they also divide gradients, 3 if also weights."""
    optimizer_on: Place = "device"
    parameters_on: Place = "device"
    gather_for_generation: bool = True
    gradients_in_buckets: bool = True
    """Whether gradients lie in the buckets that DDP sends, rather than being copied into them."""
    reduce_bucket: int = 0
    """Number of weights whose gradients are sent together."""
    overlap: bool = True
    """Whether one bucket is filled while another is sent."""
    chunk: int = 32 * 2**20
    """Number of weights of Gemini's smallest chunk."""

    @property
    def casts(self) -> bool:
        """Whether the strategy casts weights to 16 bits and keeps fp32 copies for the optimizer, without autocast."""
        return self.engine in ("deepspeed", "colossalai", "fsdp2")

    @property
    def divides_weights(self) -> bool:
        """Whether no process holds whole models."""
        return self.engine in ("fsdp", "fsdp2") or self.stage == 3

    @property
    def offloads(self) -> bool:
        """Whether the strategy keeps anything outside the device."""
        return (self.optimizer_on, self.parameters_on) != ("device", "device")

    def on_cpus(self) -> "Layout":
        """The layout if the devices are CPUs. What is offloaded to the memory of the CPU stays on the device."""

        def moved(place: Place) -> Place:
            return "device" if place == "cpu" else place

        return replace(self, optimizer_on=moved(self.optimizer_on), parameters_on=moved(self.parameters_on))


def layout(node: object) -> Layout:
    """The layout of the strategy in `trainer.strategy`.

    Args:
        node: A name that Lightning knows, or a node with `_target_`.

    Raises:
        UserError: If the planner does not support the strategy.
    """
    if node in ("auto", "single", None):
        return Layout()
    if isinstance(node, str) and node.startswith("ddp"):
        return _ddp({})
    target = node.get("_target_", "") if isinstance(node, Mapping) else ""
    kind = target.rpartition(".")[2]
    if not isinstance(node, Mapping) or kind not in _KINDS:
        raise UserError(f"trainer.strategy={target or node}: the planner does not support this strategy")
    return _KINDS[kind](node)


def _ddp(node: Mapping[str, Any]) -> Layout:
    return Layout(engine="ddp", gradients_in_buckets=node.get("gradient_as_bucket_view", False))


def _deepspeed(node: Mapping[str, Any]) -> Layout:
    device = node.get("offload_device", "cpu")
    zero = {**(node.get("config") or {}).get("zero_optimization", {}), **(node.get("zero") or {})}
    return Layout(
        engine="deepspeed",
        stage=node.get("stage", 2),
        optimizer_on=device if node.get("offload_optimizer") else "device",
        parameters_on=device if node.get("offload_parameters") else "device",
        gather_for_generation=node.get("gather_for_generation", True),
        # Lightning's defaults (strategies/deepspeed/strategy.py).
        reduce_bucket=zero.get("reduce_bucket_size", node.get("reduce_bucket_size", 200_000_000)),
        overlap=zero.get("overlap_comm", node.get("overlap_comm", True)),
    )


def _colossalai(node: Mapping[str, Any]) -> Layout:
    on: Place = "cpu" if node.get("placement_policy") == "cpu" else "device"
    stage, plugin = node.get("stage", 2), node.get("plugin") or {}
    return Layout(
        engine="colossalai",
        stage=stage,
        optimizer_on=on,
        parameters_on=on if stage == 3 else "device",
        gather_for_generation=node.get("gather_for_generation", True),
        # ColossalAI's defaults (LowLevelZeroPlugin, GeminiPlugin).
        reduce_bucket=round(plugin.get("reduce_bucket_size_in_m", 12) * 2**20),
        chunk=round(plugin.get("min_chunk_size_m", 32) * 2**20),
    )


def _fsdp(node: Mapping[str, Any]) -> Layout:
    return Layout(
        engine="fsdp",
        stage=2 if node.get("sharding_strategy") == "SHARD_GRAD_OP" else 3,
        optimizer_on="cpu" if node.get("cpu_offload") else "device",
        parameters_on="cpu" if node.get("cpu_offload") else "device",
        gather_for_generation=node.get("gather_for_generation", True),
    )


def _fsdp2(node: Mapping[str, Any]) -> Layout:
    return Layout(engine="fsdp2", stage=3, gather_for_generation=node.get("gather_for_generation", True))


_KINDS = {
    "DDPStrategy": _ddp,
    "DeepSpeedStrategy": _deepspeed,
    "ColossalAIStrategy": _colossalai,
    "FSDPStrategy": _fsdp,
    "FSDP2Strategy": _fsdp2,
}
