"""The share of the weights that an optimizer moves."""

from pathlib import Path

import pytest
import torch
from support import trainer
from torch import nn

from lightning_rlhf.distributed import weight_movement as movement
from lightning_rlhf.distributed.weight_movement import Movement


def test_the_share_counts_weights_by_the_size_of_their_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = nn.Parameter(torch.zeros(300)), nn.Parameter(torch.zeros(10, 10))
    training = trainer(tmp_path)
    training.strategy.optimizers = [torch.optim.SGD([one, other])]
    seen = Movement(training)
    assert seen.share(training) == 0
    with torch.no_grad():
        one[:150] = 1
    # Half of 300 numbers move, and none of 100.
    assert seen.share(training) == pytest.approx(150 / 400)
    # The same holds if every tenth weight is sampled.
    monkeypatch.setattr(movement, "_PER_TENSOR", 30)
    seen = Movement(training)
    with torch.no_grad():
        one[:150] = 2
    assert [len(sample) for sample in seen.before] == [30, 34]
    assert seen.share(training) == pytest.approx(150 / 400)


def test_without_weights_there_is_no_share(tmp_path: Path) -> None:
    training = trainer(tmp_path)
    training.strategy.optimizers = []
    assert Movement(training).share(training) is None
