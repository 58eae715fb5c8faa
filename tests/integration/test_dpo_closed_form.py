"""DPO finds the policy that theory predicts.

If preferences follow Bradley-Terry, P(a beats b) = sigmoid(r(a) - r(b)), a single policy minimises the DPO loss: that
which maximises the reward under a KL penalty of weight beta, p ∝ p_reference · exp(r / beta) (Rafailov et al. 2023,
equations 4 to 7). Here answers are single letters, so that this policy can be computed.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from support import trainer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lightning_rlhf import DPOModule, ModelSource, PreferenceDataModule, Renderer, load_causal_lm
from lightning_rlhf.modules.optim import Optim

LETTERS = "abcdef"
# exp(r) of each letter for each prompt.
WORTH = {"x": [1, 2, 3, 4, 5, 6], "y": [6, 4, 5, 1, 2, 3]}
BETA = 0.5
# A random model whose weights are so large that it strongly prefers some letters.
CONFIG = {"model_type": "gpt2", "vocab_size": 10, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 4}
CONFIG |= {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
SOURCE = ModelSource(config=CONFIG, tokenizer="none", seed=3)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    """Every character is a token; an answer is a letter and EOS."""
    vocabulary = {token: number for number, token in enumerate(["</s>", *"xy", *LETTERS, "?"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return Renderer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), "raw")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pairs in which a letter beats each other letter exp(r) times, a share of exp(r) / (exp(r) + exp(r')) of them."""
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for prompt, worth in WORTH.items()
        for chosen, wins in zip(LETTERS, worth, strict=True)
        for rejected in LETTERS
        if rejected != chosen
        for _ in range(wins)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@torch.no_grad()
def answer_probs(net: PreTrainedModel, renderer: Renderer) -> Tensor:
    """Probabilities (prompts, letters) of the answer "letter, EOS", given that the answer is one of these."""
    logprobs = torch.empty(len(WORTH), len(LETTERS))
    for row, prompt in enumerate(WORTH):
        for column, letter in enumerate(LETTERS):
            ids = torch.tensor([renderer.tokenizer.encode(f"{prompt}{letter}</s>")])
            steps = net.eval()(ids).logits.log_softmax(-1)[0]
            logprobs[row, column] = steps[0, ids[0, 1]] + steps[1, ids[0, 2]]
    return logprobs.softmax(-1)


def optimum(reference: Tensor, beta: float = BETA) -> Tensor:
    best = reference * torch.tensor(list(WORTH.values())) ** (1 / beta)
    return best / best.sum(-1, keepdim=True)


def distance(p: Tensor, q: Tensor) -> float:
    """The larger of the total variations of the prompts."""
    return float((p - q).abs().sum(-1).max() / 2)


def test_dpo_reaches_the_optimum_of_the_penalised_reward(renderer: Renderer, pairs: str, tmp_path: Path) -> None:
    before = answer_probs(load_causal_lm(SOURCE), renderer)
    aim = optimum(before)
    # The reference is far from uniform, and the optimum is far from what a mistake would reach.
    assert before.max() / before.min() > 5
    even = torch.full_like(before, 1 / len(LETTERS))
    mistakes = [before, optimum(even), optimum(before, BETA / 2), optimum(before, 2 * BETA), optimum(before, -BETA)]
    assert min(distance(mistake, aim) for mistake in mistakes) > 0.1

    module = DPOModule(
        actor=load_causal_lm(SOURCE),
        reference=load_causal_lm(SOURCE),
        renderer=renderer,
        beta=BETA,
        lr=1e-2,
        optim=Optim(optimizer=partial(torch.optim.Adam, lr=0.0), weight_decay=0.0, schedule="cosine"),
    )
    data = PreferenceDataModule(pairs, renderer, val_path=pairs, minibatch_size=210)
    trainer(tmp_path, max_epochs=150).fit(module, data)
    assert distance(answer_probs(module.actor, renderer), aim) < 1e-3
