"""Where a score comes from, if not from a net among the roles."""

from lightning_rlhf.rewards.function import TextReward

__all__ = ["TextReward"]
