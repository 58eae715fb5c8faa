"""The optimizers that come with a strategy, for those who handle optimizers but know no strategy."""

from lightning_rlhf.strategies.colossalai.boost import hybrid_adam
from lightning_rlhf.strategies.deepspeed.ops import cpu_adamw

OPTIMIZERS = (cpu_adamw, hybrid_adam)
