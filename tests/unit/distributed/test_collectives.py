"""Exchange between processes."""

import subprocess
import sys
from pathlib import Path

import torch

from lightning_rlhf.distributed.collectives import gather_objects, gather_rows

# Each rank has rows of its own, of three kinds, and a list with a length of its own.
PROGRAM = """
import sys
import torch
import torch.distributed as dist
from lightning_rlhf.distributed.collectives import gather_objects, gather_rows

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
rows = torch.tensor([[1.5, 2.5], [3.5, 4.5]]) + 10 * rank
for tensor in (rows, rows.t(), rows[:, 0].long(), rows > 4):
    gathered = gather_rows(tensor)
    print(gathered.dtype, gathered.tolist())
print(gather_objects(["a"] if rank == 0 else [{"b": 1}, "c"]))
dist.destroy_process_group()
"""


def test_one_process_gets_its_own_rows_back() -> None:
    rows = torch.tensor([[1.0], [2.0]])
    assert gather_rows(rows) is rows
    assert gather_objects([1, 2]) == [1, 2]


def test_every_process_gets_the_rows_of_all_in_order(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=100)
        assert rank.returncode == 0
        assert output.splitlines() == [
            "torch.float32 [[1.5, 2.5], [3.5, 4.5], [11.5, 12.5], [13.5, 14.5]]",
            "torch.float32 [[1.5, 3.5], [2.5, 4.5], [11.5, 13.5], [12.5, 14.5]]",
            "torch.int64 [1, 3, 11, 13]",
            "torch.bool [[False, False], [False, True], [True, True], [True, True]]",
            "['a', {'b': 1}, 'c']",
        ]
