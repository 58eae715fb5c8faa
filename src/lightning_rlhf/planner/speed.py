"""The speed of a device. This file imports nothing, because settings are checked before slow imports."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of a device."""

    flops: float
    """Peak FLOP/s."""
    mfu: float
    """Share of the peak FLOP/s that is reached."""
    bandwidth: float
    """Peak bandwidth of the device's memory in bytes per second."""
    mbu: float
    """Share of the bandwidth that is reached while tokens are decoded."""
