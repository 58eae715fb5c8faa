"""A trained reward model has mean 0 and deviation 1 on responses of the policy that PPO will start from."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from support import OwnWeights, trainer

from lightning_rlhf import ModelSource, Sampling, load_causal_lm
from lightning_rlhf.callbacks import NormalizeReward
from lightning_rlhf.callbacks.normalize_reward import share_of_rows
from lightning_rlhf.data.prompts import collate_prompts
from lightning_rlhf.rollout.engines.engine import BuildEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampled import sample
from lightning_rlhf.seeding import SAMPLING, RandomKey


@pytest.mark.parametrize("engine", [PaddedEngine, OwnWeights])
def test_scores_of_what_the_reference_writes_get_mean_0_and_deviation_1(
    engine: BuildEngine, parts: Callable, source: ModelSource, tmp_path: Path
) -> None:
    module, data = parts("reward")
    sampling, build = Sampling(max_new_tokens=8), partial(load_causal_lm, source)
    normalize = NormalizeReward(build, sampling, num_samples=40, batch_size=16, seed=3, engine=engine)
    trainer(tmp_path, normalize).fit(module, data)

    # All responses are scored at once here; the callback scores them in parts.
    prompts = data.reference_prompts(40)
    batch, net = collate_prompts(prompts, []), build().eval()
    module.eval()
    keys, reference = [RandomKey(3, (SAMPLING,), row) for row in range(40)], PaddedEngine(net, module.device)
    with torch.no_grad():
        sequences = sample(
            reference, batch.input_ids, batch.attention_mask, keys, sampling, stop_ids=module.renderer.stop_ids
        ).sequences
        scores = module.net.scores(sequences.input_ids, sequences.attention_mask)
    assert math.isclose(float(scores.mean()), 0, abs_tol=1e-5)
    assert math.isclose(float(scores.std(correction=0)), 1, rel_tol=1e-5)
    assert len({tuple(row.ids) for row in prompts}) == 40


@pytest.mark.parametrize(("count", "processes"), [(16, 1), (16, 2), (15, 2), (1, 3), (7, 5)])
def test_processes_share_the_rows_and_take_equally_many(count: int, processes: int) -> None:
    shares = [share_of_rows(count, rank, processes) for rank in range(processes)]
    # The shares must have equal sizes, or processes that gather models together would wait forever.
    assert {len(share) for share in shares} == {math.ceil(count / processes)}
    # Joined in the order of ranks, the shares begin with all rows, each in its place.
    assert [row for share in shares for row in share][:count] == list(range(count))
