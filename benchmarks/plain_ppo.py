"""PPO as one would write it by hand after the InstructGPT paper, in plain PyTorch and transformers.

It has four models and AdamW, and uses nothing of lightning_rlhf. memory_targets.py compares with it. There are no
adapters and no checkpointed activations, and logits of all positions; but gradients are freed after each step, and the
backward passes of actor and critic run one after the other, so that their activations do not exist at the same time.

Shapes: B rows, P prompt tokens, R response tokens, T = P + R, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

CLIP, KL_COEF, GAE_LAMBDA, VF_COEF = 0.2, 0.05, 0.95, 0.1


class TokenScores(nn.Module):
    """A model that gives a number for each token: critic and reward model."""

    def __init__(self, folder: Path) -> None:
        """Loads the model and gives it a new head."""
        super().__init__()
        self.net = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.head = nn.Linear(self.net.config.hidden_size, 1)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Computes the numbers, (B, T)."""
        return self.head(self.net(input_ids).last_hidden_state)[..., 0]


class PlainPPO:
    """The four models, and an iteration with them."""

    def __init__(self, folder: Path) -> None:
        """Loads the models from a folder that memory_nets.py wrote."""
        self.actor, self.reference = (
            AutoModelForCausalLM.from_pretrained(folder / "actor", dtype=torch.float32) for _ in range(2)
        )
        self.critic, self.reward = (TokenScores(folder / "actor") for _ in range(2))
        self.reference.requires_grad_(False)
        self.reward.requires_grad_(False)
        for net in (self.actor, self.reference, self.critic, self.reward):
            net.eval()  # dropout off
        self.optimizer = torch.optim.AdamW([*self.actor.parameters(), *self.critic.parameters()], lr=1e-6)

    def iteration(self, prompts: Tensor, num_new: int, sampled: Callable[[], None] = lambda: None) -> None:
        """Samples responses, scores them, and updates actor and critic once.

        Args:
            prompts: (B, P) token ids.
            num_new: The number of response tokens.
            sampled: A function that is called between rollout and update.
        """
        with torch.no_grad():
            limits = {"max_new_tokens": num_new, "min_new_tokens": num_new, "pad_token_id": 0}
            ids = self.actor.generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, **limits
            )
            old = logprobs(self.actor, ids, num_new)
            rewards = -KL_COEF * (old - logprobs(self.reference, ids, num_new))
            rewards[:, -1] += self.reward(ids)[:, -1]
            old_values = self.critic(ids)[:, -num_new - 1 : -1]
            advantages = gae(rewards, old_values)
            returns = advantages + old_values
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        sampled()
        ratio = (logprobs(self.actor, ids, num_new) - old).exp()
        torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)).mean().backward()
        values = self.critic(ids)[:, -num_new - 1 : -1]
        clipped = old_values + (values - old_values).clamp(-CLIP, CLIP)
        (VF_COEF * 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2).mean()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def logprobs(net: nn.Module, ids: Tensor, num_new: int) -> Tensor:
    """The log-probs (B, R) of the last tokens of (B, T) ids."""
    every = net(ids).logits[:, :-1].log_softmax(-1)
    return every.gather(2, ids[:, 1:, None])[:, -num_new:, 0]


def gae(rewards: Tensor, values: Tensor) -> Tensor:
    """The advantages (B, R), without a discount."""
    advantages, last = torch.zeros_like(rewards), torch.zeros(len(rewards))
    following = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], dim=1)
    for step in reversed(range(rewards.shape[1])):
        last = rewards[:, step] + following[:, step] - values[:, step] + GAE_LAMBDA * last
        advantages[:, step] = last
    return advantages
