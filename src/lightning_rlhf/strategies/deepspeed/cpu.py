"""Connects DeepSpeed's processes on a CPU, where Lightning would check the indices of GPUs."""

from contextlib import redirect_stdout
from io import StringIO

from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DeepSpeedStrategy

from lightning_rlhf.strategies.deepspeed.ops import COMMUNICATION, load_op


def connect_on_cpu(strategy: DeepSpeedStrategy) -> None:
    """Does the work of `DeepSpeedStrategy.setup_distributed` on a CPU.

    Raises:
        UserError: If DeepSpeed cannot compile its communication operator on this machine.
    """
    reset_seed()
    strategy.set_world_ranks()
    load_op(COMMUNICATION)
    # DeepSpeed prints that the operator is loaded.
    with redirect_stdout(StringIO()):
        strategy._init_deepspeed_distributed()
