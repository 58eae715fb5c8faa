"""A training loop of your own: REINFORCE with a leave-one-out baseline, without Lightning and without a module.

    python examples/own_loop.py

The rollout engine samples, and `lightning_rlhf.ops` has the mathematics. Everything else is plain PyTorch.
Source: Ahmadian et al., "Back to Basics: Revisiting REINFORCE Style Optimization" (2024).
"""

from statistics import fmean

import torch

from lightning_rlhf import ModelSource, NativeEngine, Renderer, Sampling, load_causal_lm
from lightning_rlhf.data.batches import pad
from lightning_rlhf.models.forward import response_logprobs
from lightning_rlhf.ops.advantages import group_means
from lightning_rlhf.rollout.sampled import sample
from lightning_rlhf.rollout.texts import decode
from lightning_rlhf.seeding import SAMPLING, RandomKey

# Random weights, so that the example downloads nothing; ModelSource(pretrained="gpt2") takes a model of the hub.
CONFIG = {"model_type": "gpt2", "vocab_size": 814, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128}
SOURCE = ModelSource(config=CONFIG, tokenizer="pkg://lightning_rlhf.demo/tokenizer")
GROUP_SIZE = 16


def main(iterations: int = 40) -> list[float]:
    """Trains the actor, and returns the mean score of each iteration."""
    renderer, net = Renderer(SOURCE.load_tokenizer()), load_causal_lm(SOURCE)
    optimizer, device = torch.optim.AdamW(net.parameters(), lr=1e-3), torch.device("cpu")
    engine, sampling, means = NativeEngine(net, device), Sampling(max_new_tokens=8), []
    prompts = [renderer.prompt([{"role": "user", "content": text}]) for text in ("What is a door?", "Hello")]
    # Adjacent rows answer the same prompt.
    input_ids, attention_mask = pad([prompt for prompt in prompts for _ in range(GROUP_SIZE)], "left")
    for iteration in range(iterations):
        net.eval()
        keys = [RandomKey(0, (SAMPLING, iteration), row) for row in range(len(input_ids))]
        with torch.no_grad():
            sampled = sample(engine, input_ids, attention_mask, keys, sampling, stop_ids=renderer.stop_ids)
        scores = torch.tensor([text.count("e") / max(len(text), 1) for text in decode(sampled.sequences, renderer)])
        advantages = (scores - group_means(scores, GROUP_SIZE)) * GROUP_SIZE / (GROUP_SIZE - 1)
        loss = -(advantages * response_logprobs(net, sampled.sequences)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        means.append(float(scores.mean()))
    return means


if __name__ == "__main__":
    found = main()
    print(f"mean score {fmean(found[:5]):.3f} in the first five iterations, {fmean(found[-5:]):.3f} in the last five")
