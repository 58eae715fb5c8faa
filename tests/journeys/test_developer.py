"""A developer who builds on the library: own data in memory, own reward model, own estimator, own callback."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import environ

pytestmark = pytest.mark.slow

PROGRAM = '''
import lightning as L
import torch
from torch import Tensor, nn

from lightning_rlhf import (
    Credit, ModelSource, PPOModule, PromptDataModule, Renderer, RewardNet, RLHFCallback, Sampling, export_model,
    load_causal_lm,
)
from lightning_rlhf.experience import Rollout
from lightning_rlhf.ops.advantages import Advantages, Trajectories, estimator
from functools import partial
from pathlib import Path


class CountsTokens(nn.Module):
    """Prefers short conversations."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return -attention_mask.sum(1).float()


@estimator("centred", group=True)
def centred(trajectories: Trajectories, *, scale: float = 1.0) -> Advantages:
    scores = trajectories.scores.view(-1, trajectories.group_size)
    distance = scale * (scores - scores.mean(1, keepdim=True)).flatten()
    return Advantages(torch.where(trajectories.mask, distance[:, None], 0))


class Sees(RLHFCallback):
    seen = 0

    def on_rollout_end(self, trainer: L.Trainer, module: L.LightningModule, rollout: Rollout) -> None:
        self.seen += len(rollout.responses)


CONFIG = {"model_type": "gpt2", "vocab_size": 814, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128}
source = ModelSource(config=CONFIG, tokenizer="pkg://lightning_rlhf.demo/tokenizer")
renderer, sees = Renderer(source.load_tokenizer()), Sees()
rows = [{"prompt": f"Say something about {thing}."} for thing in ("doors", "kettles", "lamps", "chairs")] * 4
reward = RewardNet(CountsTokens())
settings = dict(
    actor=partial(load_causal_lm, source),
    reference=partial(load_causal_lm, source),
    renderer=renderer,
    sampling=Sampling(max_new_tokens=8),
    credit=Credit(advantage="centred", options={"scale": 0.5}, num_samples_per_prompt=4),
    rollout_batch_size=16,
    minibatch_size=8,
)
module = PPOModule(reward=reward, **settings)
trainer = L.Trainer(max_epochs=2, callbacks=[sees], logger=False, limit_val_batches=0, accelerator="cpu")
trainer.fit(module, PromptDataModule(rows, renderer, val_fraction=0.3))
assert sees.seen == 32, sees.seen
trainer.save_checkpoint("mine.ckpt")
again = PPOModule.load_from_checkpoint("mine.ckpt", reward=reward)
assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.cpu().parameters(), strict=True))
export_model(again.export_nets()["model"], renderer, Path("exported"), {})

from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("exported")
ids = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print("answer:", AutoModelForCausalLM.from_pretrained("exported").generate(**ids, max_new_tokens=4).shape)
'''


def test_parts_of_ones_own_train_load_and_export(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, env=environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answer: torch.Size" in done.stdout
