"""A task so small that its optimum can be computed: the policy answers with a few letters, and stays near a reference.

Over all policies, pi* ∝ pi_ref · exp(r / beta) over whole responses maximises E[r] - beta · KL(pi || pi_ref).
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from support import trainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lightning_rlhf import ModelSource, PPOModule, PromptDataModule, Renderer, Sampling, TextReward, load_causal_lm
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.modules.optim import Optim

LETTERS = "abcdef"
VOCABULARY = {"<eos>": 0, "<pad>": 1} | {letter: number for number, letter in enumerate(LETTERS, 2)}
STOP = VOCABULARY["<eos>"]
PROMPT = "a"


def renderer() -> Renderer:
    """Returns a renderer whose tokenizer has one token for each letter."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return Renderer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>"), "raw")


def source(folder: Path) -> ModelSource:
    """Returns a model whose random weights are large, so that the reference prefers some letters over others."""
    renderer().tokenizer.save_pretrained(folder)
    config = {
        "model_type": "gpt2",
        "vocab_size": len(VOCABULARY),
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 32,
        "n_positions": 8,
        "initializer_range": 0.2,
        "bos_token_id": STOP,
        "eos_token_id": STOP,
    }
    return ModelSource(config=config, tokenizer=str(folder), seed=3)


def reward(response: str) -> float:
    """Scores later letters higher, and the first letter twice as much as the last; no letter at all scores 0.6."""
    places = [LETTERS.index(letter) / 5 for letter in response]
    return places[0] + places[-1] / 2 if places else 0.6


def rewards(prompts: list[str], responses: list[str]) -> list[float]:
    """The reward as a reward source."""
    return [reward(response) for response in responses]


def token_rewards(prompts: list[str], responses: list[str], response_tokens: list[list[str]]) -> list[list[float]]:
    """The reward as a source that scores tokens: each part of a score is at the token where it becomes known.

    Only the end of a response shows which letter is the last one, so the part of that letter is at the last token. Some
    tokens are not letters.
    """
    scores = [[0.0] * len(tokens) for tokens in response_tokens]
    for row, tokens in zip(scores, response_tokens, strict=True):
        letters = {place: text for place, text in enumerate(tokens) if text}
        if letters:
            row[min(letters)] += LETTERS.index(letters[min(letters)]) / 5
            row[-1] += LETTERS.index(letters[max(letters)]) / 10
        else:
            row[-1] = 0.6
    return scores


def outcomes(length: int) -> Iterator[tuple[int, ...]]:
    """Yields all responses, which reach the length limit or end with a stop token."""
    for tokens in product(range(len(VOCABULARY)), repeat=length):
        end = tokens.index(STOP) + 1 if STOP in tokens else length
        if tokens[end:] == (0,) * (length - end):
            yield tokens[:end]


@torch.no_grad()
def distribution(net: PreTrainedModel, length: int) -> Tensor:
    """Computes the probability of each outcome."""
    logprobs = []
    prompt = VOCABULARY[PROMPT]
    for tokens in outcomes(length):
        logits = net(torch.tensor([[prompt, *tokens]])).logits[0, :-1].double()
        logprobs.append(logits.log_softmax(-1)[range(len(tokens)), list(tokens)].sum())
    return torch.stack(logprobs).exp()


def optimum(reference: Tensor, length: int, beta: float) -> Tensor:
    """Computes the probability of each outcome under pi*."""
    decode = renderer().decode
    gains = torch.tensor([reward(decode(tokens)) for tokens in outcomes(length)], dtype=torch.float64)
    weights = reference * (gains / beta).exp()
    return weights / weights.sum()


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of the absolute differences."""
    return float((p - q).abs().sum() / 2)


@dataclass(frozen=True)
class Outcome:
    """How close the actor comes to the optimum."""

    start: float
    """Total variation between the reference and the optimum."""
    end: float
    """Total variation between the trained actor and the optimum."""


def train(
    folder: Path, *, length: int, iterations: int, beta: float = 0.4, reached_beta: float | None = None, **settings: Any
) -> Outcome:
    """Trains the real PPOModule with real rollouts and the real trainer.

    Args:
        folder: A folder for data and tokenizer.
        length: Largest number of tokens in a response.
        iterations: Number of PPO iterations.
        beta: Weight of the KL penalty.
        reached_beta: Weight that defines the optimum to compare with, if it is not `beta`.
        **settings: Settings of the module.
    """
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": PROMPT}) + "\n")
    actor = load_causal_lm(source(folder))
    reference = distribution(actor.eval(), length)
    critic: ScalarModel = load_scalar_model(source(folder), "zero")
    module = PPOModule(
        actor=actor,
        reference=copy.deepcopy(actor),
        critic=critic,
        renderer=renderer(),
        sampling=Sampling(max_new_tokens=length),
        optim=Optim(schedule="linear", weight_decay=0.0),
        kl_coef=beta,
        rollout_batch_size=512,
        rollout_micro_batch_size=512,
        **{
            "reward": TextReward(rewards),
            "minibatch_size": 256,
            "ppo_epochs": 2,
            "lr": 5e-3,
            "critic_lr": 1e-2,
            "seed": 1,
        }
        | settings,
    )
    data = PromptDataModule(str(folder / "prompts.jsonl"), module.renderer, val_path=str(folder / "prompts.jsonl"))
    trainer(folder, max_epochs=iterations, gradient_clip_val=1.0).fit(module, data)
    best = optimum(reference, length, reached_beta or beta)
    return Outcome(
        total_variation(reference, best), total_variation(distribution(module.roles.actor.eval(), length), best)
    )
