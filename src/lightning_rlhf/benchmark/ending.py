"""Makes a model with random weights end its responses with the same probability at each token.

The EOS token gets a constant logit: its row of the head becomes zero, and the head gets a bias. The head of some
families, such as GPT-J, has a bias anyway, so every engine and every scorer has to add it. Nothing in the loop that is
measured knows that the lengths are those of a benchmark. This file needs torch and transformers alone, so that other
programs measure the same model.

The row of EOS is also its input embedding if the two are tied. No token follows EOS, so nothing reads that embedding.
"""

import math
from typing import Any

import torch
from torch import nn

_ROWS, _TOKENS = 8, 32
"""Size of the batch on which the logits of the other tokens are measured."""


def end_with_probability(net: Any, eos: int, probability: float, seed: int) -> None:
    """Changes the head of a causal language model so that it draws EOS with a given probability at temperature 1.

    The probability differs between contexts as far as the normaliser of the other tokens does: by about a hundredth in
    a model with random weights.

    Args:
        net: A Hugging Face model with random weights, whose head is a linear layer.
        eos: Id of the EOS token.
        probability: Probability of EOS at each token, in (0, 1).
        seed: Seed of the tokens with which the other logits are measured.
    """
    head = net.get_output_embeddings()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ids = torch.randint(len(head.weight), (_ROWS, _TOKENS)).to(head.weight.device)
        training = net.training
        logits = net.eval()(ids).logits.float()
        net.train(training)
        logits[..., eos] = -math.inf
        others = float(logits.logsumexp(-1).mean())
        bias = torch.zeros(len(head.weight)) if head.bias is None else head.bias.detach().clone()
        bias[eos] = others + math.log(probability / (1 - probability))
        head.weight[eos] = 0
        trained = head.weight.requires_grad
        head.bias = nn.Parameter(bias.to(head.weight), requires_grad=trained)
