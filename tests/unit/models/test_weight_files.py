"""Files of weights are those that transformers writes and reads, and they are written while weights arrive."""

import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.models.weight_files import write_weights

# Bytes in fp32: 40, 80, 400, 40, 40, 120.
SIZES = {"a": 10, "b": 20, "c": 100, "d": 10, "e": 10, "f": 30}


def weights() -> Iterator[tuple[str, Tensor]]:
    for number, (name, size) in enumerate(SIZES.items()):
        yield name, torch.arange(size) + 1000.0 * number


def test_weights_are_cut_into_files_as_huggingface_hub_cuts_them(tmp_path: Path) -> None:
    write_weights(tmp_path, weights(), 130)
    split = split_torch_state_dict_into_shards(dict(weights()), max_shard_size=130)
    # A weight that exceeds the largest file size gets its own file; by the hub's rule, the file before stays open.
    assert split.tensor_to_filename["c"] != split.tensor_to_filename["b"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == split.metadata["total_size"] == 720
    files = [["a", "b"], ["c"], ["d", "e"], ["f"]]
    expected = {name: f"model-{n:05}-of-00004.safetensors" for n, names in enumerate(files, 1) for name in names}
    assert index["weight_map"] == expected
    found = {n: w for file in tmp_path.glob("*.safetensors") for n, w in load_file(file).items()}
    assert found.keys() == SIZES.keys()
    for name, weight in weights():
        assert found[name].equal(weight)


def test_what_fits_into_one_file_has_no_index(tmp_path: Path) -> None:
    write_weights(tmp_path, weights(), 720)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_weights_go_when_their_file_is_full(tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def watched() -> Iterator[tuple[str, Tensor]]:
        nonlocal most
        for name in map(str, range(20)):
            weight = torch.ones(10)
            alive.append(weakref.ref(weight))
            yield name, weight
            del weight
            most = max(most, sum(one() is not None for one in alive))

    write_weights(tmp_path, watched(), 120)
    # Three weights of 40 bytes fill a file, and the fourth arrives before it is written.
    assert most <= 4
    assert len(list(tmp_path.glob("*.safetensors"))) == 7


def test_transformers_reads_files_that_are_cut(
    make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model = make_causal_lm(make_source("llama"))
    model.config.save_pretrained(tmp_path)
    write_weights(tmp_path, iter(model.state_dict().items()), 10_000)
    read = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(weight.equal(read[name]) for name, weight in model.state_dict().items())
