"""Writes what the rows of memory_targets.py load: a model of any size with random weights, a reward model, prompts."""

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.adapters.files import save_adapter
from lightning_rlhf.models.adapters.lora import ADAPTER, Lora, inject, is_part_of_adapter
from lightning_rlhf.models.rebuilding import empty_net
from lightning_rlhf.models.source import ModelSource

TOKENIZER = "pkg://lightning_rlhf.demo/tokenizer"
_SHARD = 300 * 10**6
_STD = 0.02


def drawn(name: str, weight: Tensor) -> Tensor:
    """Random numbers for a weight in bf16, as in a new GPT-2; the weights of an adapter are not 0 either."""
    if weight.dim() > 1:
        return torch.empty(weight.shape, dtype=torch.bfloat16).normal_(std=_STD)
    return torch.full(weight.shape, float(name.endswith("weight")), dtype=torch.bfloat16)


def shards(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The weights of a model on the meta device, a few hundred MB at a time."""
    part: dict[str, Tensor] = {}
    for name, weight in net.named_parameters():
        part[name] = drawn(name, weight)
        if sum(tensor.nbytes for tensor in part.values()) > _SHARD:
            yield part
            part = {}
    yield part


def write_net(source: ModelSource, folder: Path, *, scalar: bool, weights: bool = True) -> None:
    """Writes a model folder of transformers, without ever holding the whole model in memory."""
    net: Any = empty_net(source, scalar=scalar)
    net = net.net if scalar else net
    net.config.architectures = [type(net).__name__]
    net.config.save_pretrained(folder)
    source.load_tokenizer().save_pretrained(folder)
    if not weights:
        return
    torch.manual_seed(int(scalar))
    places = {}
    for number, part in enumerate(shards(net)):
        name = f"model-{number:05}.safetensors"
        save_file(part, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write_reward_adapter(source: ModelSource, base: Path, folder: Path) -> None:
    """Writes the adapter and the head of a reward model that uses a given base model."""
    net: Any = empty_net(source, scalar=True)
    net = net.net
    with torch.device("meta"):
        inject(net, Lora(), ADAPTER)
    net.config.score_bias = 0.0
    trained = {key: w for key, w in net.state_dict().items() if is_part_of_adapter(key) or key.startswith("score.")}
    weights = {key: drawn(key, weight).float() for key, weight in trained.items()}
    save_adapter(net, ADAPTER, folder, str(base), True, weights)


def write_prompts(path: Path, length: int) -> None:
    """Writes prompts of exactly `length` tokens."""
    renderer = Renderer(ModelSource(config={}, tokenizer=TOKENIZER).load_tokenizer(), "raw", stop_ids=(2,))
    text = files("lightning_rlhf.demo").joinpath("prompts.jsonl").read_text(encoding="utf-8")

    def fits(prompt: str) -> bool:
        return len(renderer.prompt([{"role": "user", "content": prompt}])) == length

    prompts = [_first(lambda end, start=start: text[start:end], fits, start + length // 2) for start in range(8)]
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")


def _first(make: Callable[[int], str], fits: Callable[[str], bool], number: int) -> str:
    while not fits(make(number)):
        number += 1
    return make(number)


def write(config: dict[str, Any], folder: Path, *, prompt_length: int, reward_net: bool) -> None:
    """Writes all files, unless they exist already.

    Args:
        config: The architecture.
        folder: The folder for `actor/`, `reward/model/`, `reward/adapter/` and `prompts.jsonl`.
        prompt_length: The number of tokens of each prompt.
        reward_net: Whether to write the reward model as a whole model too.
    """
    if (folder / "prompts.jsonl").exists():
        return
    source = ModelSource(config=config, tokenizer=TOKENIZER, dtype="bfloat16")
    write_net(source, folder / "actor", scalar=False)
    write_net(source, folder / "reward" / "model", scalar=True, weights=reward_net)
    write_reward_adapter(source, folder / "actor", folder / "reward" / "adapter")
    write_prompts(folder / "prompts.jsonl", prompt_length)
