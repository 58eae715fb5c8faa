"""Checkpoints of DeepSpeed that are damaged."""

from pathlib import Path

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.deepspeed.checkpoint import TAG, read_rest


def test_a_checkpoint_without_its_model_states_says_so(tmp_path: Path) -> None:
    (tmp_path / TAG).mkdir()
    with pytest.raises(UserError, match=rf"there is no {TAG}/\*_model_states.pt in it: copy the whole folder again"):
        read_rest(tmp_path)
