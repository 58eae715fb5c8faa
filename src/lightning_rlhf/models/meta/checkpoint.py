"""Meta's original LLaMA folders, which contain `params.json`, `consolidated.00.pth` and so on, and `tokenizer.model`.

The files of weights are mapped into memory, so a weight is read from disk only when it is needed.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.models.meta.layout import EMBEDDING, OUTPUT, MetaParams, Weight, is_computed, read_params
from lightning_rlhf.models.meta.tokenizer import MetaTokenizer, read_tokenizer

_SHARD = re.compile(r"consolidated\.(\d+)\.pth")


@dataclass(frozen=True)
class MetaCheckpoint:
    """A checkpoint whose names and shapes have been checked."""

    params: MetaParams
    tokenizer: MetaTokenizer
    weights: dict[str, Weight]
    """The weights by Meta's names. The output is left out if it shares the weights of the embedding."""
    shards: list[dict[str, Tensor]]
    """The tensors of each file, by Meta's names."""
    files: list[Path]
    """All files of the checkpoint."""

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the whole model."""
        return sum(weight.numel for weight in self.weights.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights in the files."""
        return self.shards[0][EMBEDDING].dtype

    def config(self, dtype: torch.dtype | None = None) -> LlamaConfig:
        """Returns the configuration of the model in Hugging Face's format.

        Args:
            dtype: The dtype of the weights; None for the one in the files.
        """
        params, tied = self.params, OUTPUT not in self.weights
        rope: dict[str, Any] = {"rope_theta": params.rope_theta}
        # Chen et al. (2023) stretch all positions; Grattafiori et al. (2024) leave the fast ones out. Meta's code
        # has the factor 8 for all sizes, but the small models of Llama 3.2, which alone have tied embeddings, need 32.
        if params.use_scaled_rope:
            rope["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": 32.0 if tied else 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            vocab_size=self.weights[EMBEDDING].shape[0],
            hidden_size=params.dim,
            intermediate_size=params.ffn_dim,
            num_hidden_layers=params.n_layers,
            num_attention_heads=params.n_heads,
            num_key_value_heads=params.n_kv_heads or params.n_heads,
            rms_norm_eps=params.norm_eps,
            max_position_embeddings=params.context_length,
            tie_word_embeddings=tied,
            bos_token_id=self.tokenizer.bos_id,
            eos_token_id=self.tokenizer.eos_ids,
            dtype=dtype or self.dtype,
            **rope,
        )

    def generation_config(self) -> GenerationConfig:
        """Returns the tokens that begin a text and end an answer; LLaMA has no PAD, so a token that ends one pads."""
        begin, ends = self.tokenizer.bos_id, self.tokenizer.eos_ids
        return GenerationConfig(bos_token_id=begin, eos_token_id=ends, pad_token_id=ends[0])

    def whole(self, name: str, dtype: torch.dtype) -> Tensor:
        """Returns a whole weight in the layout of Hugging Face's model.

        Args:
            name: Meta's name.
            dtype: The dtype of the result.

        Returns:
            A tensor in memory, or one that is mapped to the file if the file contains it unchanged.
        """
        weight = self.weights[name]
        shards = self.shards if weight.split else self.shards[:1]
        # The parts are converted before they are joined, since parts in 16 bits take less memory than the whole in 32.
        parts = [shard[name].to(dtype) for shard in shards]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=weight.split[0])
        return halves_of_pairs(whole, self.params.head_dim) if weight.rotates else whole


def halves_of_pairs(rows: Tensor, head_dim: int) -> Tensor:
    """Puts the rows of queries or keys in the order that Hugging Face's rotary embedding expects.

    Su et al. (2021) and Meta rotate the pair of rows (2i, 2i + 1) of a head by the i-th angle. Hugging Face rotates the
    rows i and i + d/2.

    Args:
        rows: (heads · d, D).
        head_dim: d.

    Returns:
        (heads · d, D).
    """
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def is_meta_folder(path: Path) -> bool:
    """Whether a folder contains Meta's `params.json` and no `config.json` of Hugging Face."""
    path = path.expanduser()
    return (path / "params.json").is_file() and not (path / "config.json").is_file()


def open_checkpoint(folder: str, setting: str) -> MetaCheckpoint:
    """Opens a folder in the format that Meta publishes, and compares names and shapes with `params.json`.

    Args:
        folder: Path of the folder.
        setting: Name of the setting that gives the folder, for messages.

    Raises:
        UserError: If a file is missing, superfluous or incomplete, or a tensor is unknown, missing or of a wrong shape.
    """
    path = Path(folder).expanduser()
    params = read_params(path, setting)
    files = _shard_files(path, setting)
    tokenizer = read_tokenizer(path, setting, params.use_scaled_rope)
    if params.vocab_size not in (-1, tokenizer.size):
        raise UserError(
            f"{setting}={folder}: params.json has vocab_size={params.vocab_size}, but tokenizer.model has "
            f"{tokenizer.size} tokens; put the tokenizer.model of this model there"
        )
    shards = [_open(file, setting) for file in files]
    weights = params.weights(tokenizer.size)
    if all(_is_tied(shard) for shard in shards):
        del weights[OUTPUT]
    raise_problems(f"{setting}={folder}: {problem}" for problem in _problems(weights, shards, files))
    found = {name: weight._replace(split=_split(name, weight, shards) or ()) for name, weight in weights.items()}
    return MetaCheckpoint(params, tokenizer, found, shards, [path / "params.json", tokenizer.file, *files])


def _shard_files(path: Path, setting: str) -> list[Path]:
    """Lists the files of weights in their order."""
    found = {int(match[1]): file for file in path.iterdir() if (match := _SHARD.fullmatch(file.name))}
    if not found:
        raise UserError(f"{setting}={path}: there is no consolidated.00.pth")
    missing = [f"consolidated.{n:02}.pth" for n in range(max(found)) if n not in found]
    if missing:
        raise UserError(
            f"{setting}={path}: {', '.join(missing)} is missing, although {found[max(found)].name} is there; download "
            "it again"
        )
    return [found[n] for n in sorted(found)]


def _open(file: Path, setting: str) -> dict[str, Tensor]:
    """Maps a file of weights into memory."""
    if not is_zipfile(file):
        raise UserError(
            f"{setting}: {file} is {_kind(file)}, and not in the format of torch.save since PyTorch 1.6; download it "
            "again, or write it again with torch.save(torch.load(file), file)"
        )
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{setting}: {file} is incomplete, or contains more than tensors; download it again ({reason})"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{setting}: {file} does not contain a dictionary of tensors; download it again")
    return {name: tensor for name, tensor in tensors.items() if not is_computed(name)}


def _kind(file: Path) -> str:
    """Describes a file that is not a PyTorch archive, by its first bytes."""
    with file.open("rb") as content:
        start = content.read(512)
    if not start:
        return "empty"
    if start.lstrip().startswith(b"<"):
        return "a web page, perhaps a login page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer without the file that it points to"
    if start.startswith(b"PK"):
        return "cut off"
    return "in the format before PyTorch 1.6" if start.startswith(b"\x80") else "in another format"


def _is_tied(shard: dict[str, Tensor]) -> bool:
    """Whether the output shares the weights of the embedding. Llama 3.2, where this occurs, splits both alike."""
    if OUTPUT not in shard or EMBEDDING not in shard:
        return OUTPUT not in shard
    output, embedding = shard[OUTPUT], shard[EMBEDDING]
    # The first row usually differs if the weights do, so the other rows need not be read.
    return output.shape == embedding.shape and all(torch.equal(output[:n], embedding[:n]) for n in (1, len(output)))


def _problems(weights: dict[str, Weight], shards: list[dict[str, Tensor]], files: list[Path]) -> list[str]:
    """Lists what does not fit. A problem that explains others is listed alone."""
    for shard, file in zip(shards, files, strict=True):
        unknown, missing = sorted(shard.keys() - weights.keys() - {OUTPUT}), sorted(weights.keys() - shard.keys())
        if unknown:
            return [f"{file.name} contains tensors that no LLaMA has: {_some(unknown)}; only LLaMA can be converted"]
        if missing:
            return [f"{file.name} lacks {_some(missing)}, which params.json requires; download both files again"]
    query = "layers.0.attention.wq.weight"
    count, rest = divmod(weights[query].shape[0], max(1, len(shards[0][query]))) if shards[0][query].dim() else (0, 1)
    if not rest and count != len(files):
        return [
            f"the shapes in {files[0].name} belong to a model in {count} file(s), but there are {len(files)}; put all "
            "files of the model there, and no others"
        ]
    return [
        f"{name} has the shape {_shapes(name, shards)} in {len(files)} file(s), which cannot be joined to the "
        f"{weight.shape} that params.json and tokenizer.model require; put the files of one model there"
        for name, weight in weights.items()
        if _split(name, weight, shards) is None
    ][:3]


def _split(name: str, weight: Weight, shards: list[dict[str, Tensor]]) -> tuple[int, ...] | None:
    """Returns the dimension along which to join the parts, () if each file has the whole weight, or None if neither."""
    parts, count = _shapes(name, shards), len(shards)
    for dim in weight.split if count > 1 else ():
        if parts == {tuple(n // count if d == dim else n for d, n in enumerate(weight.shape))}:
            return (dim,) if weight.shape[dim] % count == 0 else None
    return () if parts == {weight.shape} and (count == 1 or not weight.split) else None


def _shapes(name: str, shards: list[dict[str, Tensor]]) -> set[tuple[int, ...]]:
    return {tuple(shard[name].shape) for shard in shards}


def _some(names: list[str]) -> str:
    """Lists the first names, and counts the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
