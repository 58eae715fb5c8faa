"""The format of Meta's LLaMA checkpoints: the content of `params.json`, and the weights that follow from it.

Source: Touvron et al. (2023), LLaMA and Llama 2; Grattafiori et al. (2024), Llama 3; and the files that Meta publishes.

Shapes: D hidden size, H heads, K heads of keys and values, d = D / H, F feed-forward size, V vocabulary.
"""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.errors import UserError

EMBEDDING, OUTPUT = "tok_embeddings.weight", "output.weight"


def is_computed(name: str) -> bool:
    """Whether a tensor follows from `params.json`: rotary frequencies, which LLaMA saves per layer and Llama 2 once."""
    return f".{name}".endswith(".rope.freqs")


class Weight(NamedTuple):
    """A whole weight, of which each file contains a part."""

    name: str
    """Name in Hugging Face's model."""
    shape: tuple[int, ...]
    split: tuple[int, ...] = ()
    """The dimension that is split over the files; two for the embedding, which may be split along either. If it is
    empty, each file contains the whole weight."""
    rotates: bool = False
    """Whether the rows are queries or keys, head by head, which rotary embeddings rotate."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class MetaParams:
    """The content of `params.json`. The defaults are those of Meta's code for settings that a file leaves out."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int | None = None
    """None if each head has keys and values of its own."""
    vocab_size: int = -1
    """-1 for the number of tokens of the tokenizer."""
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    use_scaled_rope: bool = False
    max_seq_len: int | None = None

    @property
    def head_dim(self) -> int:
        """The size d of a head."""
        return self.dim // self.n_heads

    @property
    def kv_dim(self) -> int:
        """The number of rows K·d of the weights of keys and of values."""
        return (self.n_kv_heads or self.n_heads) * self.head_dim

    @property
    def ffn_dim(self) -> int:
        """Feed-forward size: two thirds of 4 D, since three matrices replace two, rounded up."""
        size = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            size = int(self.ffn_dim_multiplier * size)
        return -(-size // self.multiple_of) * self.multiple_of

    @property
    def context_length(self) -> int:
        """The number of tokens of a training sequence.

        `params.json` rarely contains it, but other settings tell the generations apart.
        """
        if self.max_seq_len is not None:
            return self.max_seq_len
        if self.use_scaled_rope:
            return 131072  # Llama 3.1 and 3.2
        if self.rope_theta > 10000.0:
            return 8192 if self.rope_theta < 1e6 else 16384  # Llama 3, Code Llama
        # The first LLaMA has the smaller epsilon, except for 65B. Llama 2 of that width has grouped heads.
        is_first = self.norm_eps < 1e-5 or (self.dim == 8192 and self.n_kv_heads is None)
        return 2048 if is_first else 4096

    def weights(self, vocab_size: int) -> dict[str, Weight]:
        """Returns all weights by Meta's names.

        Args:
            vocab_size: V.
        """
        found = {
            EMBEDDING: Weight("model.embed_tokens.weight", (vocab_size, self.dim), (0, 1)),
            "norm.weight": Weight("model.norm.weight", (self.dim,)),
            OUTPUT: Weight("lm_head.weight", (vocab_size, self.dim), (0,)),
        }
        for n in range(self.n_layers):
            for name, weight in self._block().items():
                found[f"layers.{n}.{name}.weight"] = weight._replace(name=f"model.layers.{n}.{weight.name}.weight")
        return found

    def _block(self) -> dict[str, Weight]:
        """Returns the weights of one layer. Projections into a part are split by rows, those out of it by columns."""
        model, keys, inner = self.dim, self.kv_dim, self.ffn_dim
        return {
            "attention.wq": Weight("self_attn.q_proj", (model, model), (0,), rotates=True),
            "attention.wk": Weight("self_attn.k_proj", (keys, model), (0,), rotates=True),
            "attention.wv": Weight("self_attn.v_proj", (keys, model), (0,)),
            "attention.wo": Weight("self_attn.o_proj", (model, model), (1,)),
            "feed_forward.w1": Weight("mlp.gate_proj", (inner, model), (0,)),
            "feed_forward.w2": Weight("mlp.down_proj", (model, inner), (1,)),
            "feed_forward.w3": Weight("mlp.up_proj", (inner, model), (0,)),
            "attention_norm": Weight("input_layernorm", (model,)),
            "ffn_norm": Weight("post_attention_layernorm", (model,)),
        }


def read_params(folder: Path, setting: str) -> MetaParams:
    """Reads `params.json`.

    Args:
        folder: The folder of the checkpoint.
        setting: Name of the setting that gives the folder, for messages.

    Raises:
        UserError: If there is no such file, or a size is missing or impossible.
    """
    if not folder.is_dir():
        raise UserError(f"{setting}={folder}: no such folder ({folder.absolute()})")
    file = folder / "params.json"
    if not file.is_file():
        raise UserError(f"{setting}={folder}: there is no params.json; give the folder that holds consolidated.00.pth")
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        kinds = {field.name: field.type for field in fields(MetaParams)}
        known = {name: value for name, value in said.items() if name in kinds}
        if wrong := [f"{name}={json.dumps(known[name])}" for name in known if not _is_a(known[name], kinds[name])]:
            raise ValueError(f"{', '.join(wrong)}: of the wrong type")
        params = MetaParams(**known)
        sizes = [params.dim, params.n_layers, params.n_heads, params.n_kv_heads or params.n_heads, params.multiple_of]
        fits = min(sizes) > 0 and params.ffn_dim > 0 and params.head_dim % 2 == 0
        fits = fits and params.dim % params.n_heads == 0 and params.n_heads % sizes[3] == 0
        if not (params.norm_eps > 0 and params.rope_theta > 0 and (params.max_seq_len or 1) > 0):
            raise ValueError("norm_eps, rope_theta and max_seq_len must be positive")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{setting}={folder}: params.json is not in Meta's format: {error}") from error
    if not fits:
        raise UserError(
            f"{setting}={folder}: in params.json, n_heads={params.n_heads} must divide dim={params.dim} into even "
            f"sizes, n_kv_heads={params.n_kv_heads} must divide n_heads, and all sizes must be positive"
        )
    return params


def _is_a(value: object, kind: Any) -> bool:
    """Whether a JSON value has the type of a field. An integer passes as a float, and a boolean is not a number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (isinstance(value, int) and isinstance(0.0, kind))
