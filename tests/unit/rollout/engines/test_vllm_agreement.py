"""An error of one process stops all of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.vllm_agreement import agreed, together

# The second process fails, and the first one does not: it has three items, and reads them before it hears of the error.
PROGRAM = """
import sys
import torch.distributed as dist
from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.vllm_agreement import agreed, together

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

def act():
    if rank == 1:
        raise UserError("no answer")
    return 5

def items():
    yield 1
    if rank == 1:
        raise UserError("no third answer")
    yield from (2, 3)

def tried(act):
    try:
        return act()
    except UserError as error:
        return f"error: {error}"

def read():
    for item in agreed(items()):
        print(item)

print(tried(lambda: together(lambda: rank)))
print(tried(lambda: together(act)))
print(tried(read))
dist.destroy_process_group()
"""


def test_an_error_of_one_process_is_an_error_of_all_at_the_end(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=100)[0].split("\n") for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert outputs[0] == ["0", "error: no answer", "1", "2", "3", "error: no third answer", ""]
    assert outputs[1] == ["1", "error: no answer", "1", "error: no third answer", ""]


def test_one_process_alone_gets_its_own_items_and_errors() -> None:
    def fails() -> int:
        raise UserError("no answer")

    assert together(lambda: 3) == 3
    assert list(agreed([1, 2])) == [1, 2]
    with pytest.raises(UserError, match="^no answer$"):
        together(fails)
