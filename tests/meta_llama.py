"""Random LLaMA checkpoints in Meta's format for tests, and the model that they are weights of.

The model is written from the papers, and shares no code with transformers or with the conversion.
"""

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TEXTS = [
    "Hello world",
    "  two  spaces\n\nand lines, é, 漢字, 🙂 and 12345",
    " a space in front",
    "and behind ",
    "def f(x):\n    return x + 1",
    "",
    "aaaa    aaaaaaa",
    "I'll say it isn't <s> or <|eot_id|>.",
]

# The numbers of heads, and of heads of keys and values, can be split over eight files.
LLAMA_1 = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 32, "norm_eps": 1e-6, "vocab_size": -1}
LLAMA_2 = {**LLAMA_1, "dim": 128, "n_heads": 16, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5}
LLAMA_3 = {**LLAMA_2, "rope_theta": 500000.0, "vocab_size": 520}
LLAMA_3_1 = {**LLAMA_3, "use_scaled_rope": True}


def ffn_dim(params: dict[str, Any]) -> int:
    """Feed-forward size by Touvron et al. (2023), 2.2: two thirds of 4 D, rounded up to a multiple."""
    size = int(int(8 * params["dim"] / 3) * params.get("ffn_dim_multiplier", 1.0))
    return (size + params["multiple_of"] - 1) // params["multiple_of"] * params["multiple_of"]


def random_weights(params: dict[str, Any], vocab_size: int, seed: int = 0) -> dict[str, Tensor]:
    """Draws whole weights by Meta's names; gains and queries are so large that every part changes the output."""
    draw = torch.Generator().manual_seed(seed)
    dim, inner = params["dim"], ffn_dim(params)
    keys = dim // params["n_heads"] * params.get("n_kv_heads", params["n_heads"])

    def matrix(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / shape[-1] ** 0.5

    def gain() -> Tensor:
        return 1 + 0.3 * torch.randn(dim, generator=draw)

    weights = {"tok_embeddings.weight": matrix(vocab_size, dim) * dim**0.5, "norm.weight": gain()}
    weights["output.weight"] = matrix(vocab_size, dim)
    for n in range(params["n_layers"]):
        block = {
            "attention.wq": matrix(dim, dim) * 2,
            "attention.wk": matrix(keys, dim) * 2,
            "attention.wv": matrix(keys, dim),
            "attention.wo": matrix(dim, dim),
            "feed_forward.w1": matrix(inner, dim),
            "feed_forward.w2": matrix(dim, inner),
            "feed_forward.w3": matrix(inner, dim),
            "attention_norm": gain(),
            "ffn_norm": gain(),
        }
        weights |= {f"layers.{n}.{name}.weight": weight for name, weight in block.items()}
    return weights


def computed_names(params: dict[str, Any]) -> list[str]:
    """Names of the rotary frequencies, which files of LLaMA contain per layer, of Llama 2 once, and of Llama 3 not."""
    if params["vocab_size"] > 0:
        return []
    if "n_kv_heads" in params:
        return ["rope.freqs"]
    return [f"layers.{n}.attention.inner_attention.rope.freqs" for n in range(params["n_layers"])]


def write_shards(
    folder: Path, weights: dict[str, Tensor], count: int, *, embedding_dim: int = 1, computed: Sequence[str] = ()
) -> None:
    """Writes the weights as `count` processes of tensor parallelism hold them.

    The embedding is split along `embedding_dim`. The tensors of a file share one storage, as in Meta's large models.
    """
    for n in range(count):
        parts = {}
        for name, weight in weights.items():
            kind = name.removesuffix(".weight").split(".")[-1]
            if "norm" in kind:
                dim = None
            elif kind == "tok_embeddings":
                dim = embedding_dim
            else:
                dim = 1 if kind in ("wo", "w2") else 0
            parts[name] = weight if dim is None else weight.chunk(count, dim)[n]
        storage = torch.cat([part.flatten() for part in parts.values()])
        pieces = storage.split([part.numel() for part in parts.values()])
        shard = {name: piece.view(part.shape) for (name, part), piece in zip(parts.items(), pieces, strict=True)}
        shard |= {name: torch.ones(4) for name in computed}
        torch.save(shard, folder / f"consolidated.{n:02}.pth")


def write_params(folder: Path, params: dict[str, Any]) -> None:
    (folder / "params.json").write_text(json.dumps(params))


def tiktoken_ranks() -> dict[bytes, int]:
    """All bytes, and a few tokens that consist of two others each."""
    merged = "th he in er an  a  t the and  the    in  wo rl ld  world 12 123 lo ll ell Hell Hello".replace("  ", " _")
    tokens = [bytes([n]) for n in range(256)]
    for token in merged.split(" "):
        tokens.append(token.replace("_", " ").encode())
    return {token: rank for rank, token in enumerate(dict.fromkeys(tokens))}


def write_tiktoken(folder: Path, size: int = 264) -> None:
    """Writes a tiktoken file of `size` tokens; another 256 tokens are special."""
    tokens = sorted(tiktoken_ranks().items(), key=lambda item: item[1])[:size]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in tokens]
    (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")


def write_sentencepiece(folder: Path, size: int = 400) -> None:
    """Trains a tokenizer like LLaMA's (Touvron et al., 2023, 2.1): BPE, single digits, bytes for the rest."""
    import sentencepiece

    demo = files("lightning_rlhf.demo").joinpath("demonstrations.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, demo.splitlines()[:500])
    sentencepiece.SentencePieceTrainer.train(
        # TEXTS adds what the demo lacks: digits and several spaces in a row.
        sentence_iterator=iter([*TEXTS, *(f"{row['prompt']} {row['completion']}" for row in rows)]),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.999,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()


def frequencies(params: dict[str, Any], factor: float) -> Tensor:
    """Angles per position of the d/2 pairs (Su et al., 2021, eq. 15).

    With `use_scaled_rope`, slow pairs are slowed by the factor and fast pairs are not. Pairs that take between 8192 / 4
    and 8192 positions for a turn mix both (Grattafiori et al., 2024).
    """
    head_dim = params["dim"] // params["n_heads"]
    found = []
    for i in range(head_dim // 2):
        angle = params.get("rope_theta", 10000.0) ** (-2 * i / head_dim)
        if params.get("use_scaled_rope"):
            turns = 8192 * angle / (2 * torch.pi)
            share = min(1.0, max(0.0, (turns - 1) / (4 - 1)))
            angle = share * angle + (1 - share) * angle / factor
        found.append(angle)
    return torch.tensor(found)


@torch.no_grad()
def meta_logits(params: dict[str, Any], weights: dict[str, Tensor], ids: Tensor, factor: float = 8.0) -> Tensor:
    """Logits (B, T, V) of Meta's model for ids (B, T)."""
    dim, heads = params["dim"], params["n_heads"]
    groups = params.get("n_kv_heads", heads)
    batch, length = ids.shape
    angles = torch.arange(length)[:, None] * frequencies(params, factor)
    turn = torch.polar(torch.ones_like(angles), angles)[None, :, None]

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]).sqrt() * weights[f"{name}.weight"]

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn).flatten(-2)

    hidden = weights["tok_embeddings.weight"][ids]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    for n in range(params["n_layers"]):
        w = {name: weights[f"layers.{n}.attention.{name}.weight"] for name in ("wq", "wk", "wv", "wo")}
        w |= {name: weights[f"layers.{n}.feed_forward.{name}.weight"] for name in ("w1", "w2", "w3")}
        x = norm(hidden, f"layers.{n}.attention_norm")
        queries = rotated((x @ w["wq"].T).view(batch, length, heads, -1))
        keys = rotated((x @ w["wk"].T).view(batch, length, groups, -1)).repeat_interleave(heads // groups, 2)
        values = (x @ w["wv"].T).view(batch, length, groups, -1).repeat_interleave(heads // groups, 2)
        scores = torch.einsum("bqhd,bkhd->bhqk", queries, keys) / (dim // heads) ** 0.5
        scores = scores.masked_fill(future, float("-inf")).softmax(-1)
        hidden = hidden + torch.einsum("bhqk,bkhd->bqhd", scores, values).flatten(2) @ w["wo"].T
        x = norm(hidden, f"layers.{n}.ffn_norm")
        gate = x @ w["w1"].T
        hidden = hidden + (gate * gate.sigmoid() * (x @ w["w3"].T)) @ w["w2"].T
    return norm(hidden, "norm") @ weights["output.weight"].T


def write_checkpoint(folder: Path, params: dict[str, Any], count: int = 1) -> dict[str, Tensor]:
    """Writes the whole folder of a LLaMA model, of the generation that the parameters belong to.

    Returns:
        The weights.
    """
    third = params["vocab_size"] > 0
    weights = random_weights(params, 520 if third else 400)
    write_params(folder, params)
    write_shards(folder, weights, count, embedding_dim=0 if third else 1, computed=computed_names(params))
    (write_tiktoken if third else write_sentencepiece)(folder)
    return weights
