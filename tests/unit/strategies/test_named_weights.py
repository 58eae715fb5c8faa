"""The stream of whole weights, in two processes under each strategy, which run `weights_worker.py`."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from compare import finish, started
from support import free_port
from unit.strategies.weights_worker import SHARD_BYTES, SOURCE, STRATEGIES, build

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.export import export_model

# These tests train in two processes.
pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("weights_worker.py")
# Numbers by hand, in fp32: attention 256·768 + 768 and 256·256 + 256, feed-forward 256·1024 + 1024 and 1024·256 + 256,
# two norms of 512. Outside: 814·256 tokens (the head is tied to them), 32·256 positions, a norm of 512.
BLOCK = 4 * (197_376 + 65_792 + 263_168 + 262_400 + 1024) / 1e6
OUTSIDE = 4 * (208_384 + 8192 + 512) / 1e6
MODEL = 8 * BLOCK + OUTSIDE
# A scalar model has a head of 256 and a bias of its own.
BOTH = 2 * MODEL + 4 * 257 / 1e6
LARGEST = 4 * 256 * 1024 / 1e6
CHUNK = 4 * 1024**2 / 1e6
SHARD = SHARD_BYTES / 1e6
MOST = {
    # The tensor that the consumer still holds, the next one, its parts as they arrive, and what is sent.
    "fsdp2": 4 * LARGEST,
    "deepspeed_zero3": 4 * LARGEST,
    # Blocks instead of tensors, and what both models have outside their blocks.
    "fsdp": 2 * OUTSIDE + 3 * BLOCK,
    # Chunks instead of tensors; the parts arrive in their final place.
    "colossalai_gemini": 3.1 * CHUNK,
}
"""Megabytes that a stream may use in addition to the shards."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module", params=["ddp fsdp", "deepspeed", "colossalai"])
def seen(request: pytest.FixtureRequest, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns what both processes saw under the strategies of some libraries, by strategy."""
    libraries = tuple(request.param.split())
    if libraries[0] != "ddp" and find_spec(libraries[0]) is None:
        pytest.skip(f"{libraries[0]} is not installed")
    names = [name for name in STRATEGIES if name.startswith(libraries)]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [str(WORKER), str(folder), *names]
    finish([started(command, **shared, DS_ACCELERATOR="cpu", LOCAL_RANK=str(rank)) for rank in range(2)])
    return {name: [json.loads((folder / f"{name}_{rank}.json").read_text()) for rank in range(2)] for name in names}


def test_every_process_gets_the_names_and_numbers_of_a_model_that_nobody_divides(seen: dict[str, Any]) -> None:
    for name, ranks in seen.items():
        for rank in ranks:
            for model in ("model", "frozen"):
                assert rank[model]["names"], (name, model)
                assert rank[model]["differing"] == [], (name, model)
                assert rank[model]["plain"], (name, model)
        # Gemini keeps frozen weights in 16 bits only.
        dtype = "torch.bfloat16" if name == "colossalai_gemini" else "torch.float32"
        assert (ranks[0]["model"]["dtype"], ranks[0]["frozen"]["dtype"]) == ("torch.float32", dtype)


def test_a_full_state_dict_is_the_same_on_the_first_process_and_empty_on_others(seen: dict[str, Any]) -> None:
    for name, ranks in seen.items():
        assert ranks[0]["model"]["state_differs"] == [], name
        # There are eight blocks of twelve weights, three norms and embeddings outside, and the tied head.
        assert ranks[0]["model"]["state_names"] == 8 * 12 + 5, name
        if name != "ddp":
            assert ranks[1]["model"]["state_names"] == 0, name


def test_a_stream_holds_a_small_part_of_the_models_and_a_state_dict_all(seen: dict[str, Any]) -> None:
    for name, ranks in seen.items():
        most = MOST.get(name, 0.1)
        assert most < BOTH / 4
        for rank in ranks:
            assert rank["stream"] < most, name
        if name != "ddp":
            # Gemini has frozen weights in 16 bits.
            assert ranks[0]["whole"] > (MODEL + MODEL / 2 if name == "colossalai_gemini" else BOTH), name


def test_an_export_of_a_divided_model_is_that_of_a_whole_one_bit_by_bit(
    seen: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    renderer = Renderer(SOURCE.load_tokenizer())
    for model, name in zip(build(), ("model", "frozen"), strict=True):
        expected = export_model(model, renderer, tmp_path / name, {}, max_shard_bytes=SHARD_BYTES)
        files = sorted(path.name for path in expected.iterdir())
        assert "model-00009-of-00009.safetensors" in files
        for strategy in seen:
            if (strategy, name) == ("colossalai_gemini", "frozen"):
                # Gemini keeps these weights in 16 bits.
                continue
            export = folder / f"{strategy}_{name}"
            assert sorted(path.name for path in export.iterdir()) == files
            for file in files:
                assert (export / file).read_bytes() == (expected / file).read_bytes(), (strategy, name, file)


def test_an_export_holds_a_file_and_what_the_stream_holds(seen: dict[str, Any]) -> None:
    for name, ranks in seen.items():
        for model in ("model", "frozen"):
            # The limit allows for a file and a block that is on its way to it.
            assert ranks[0][f"export {model}"] < MOST.get(name, 0.1) + SHARD + BLOCK + 1, name
            assert ranks[1][f"export {model}"] < MOST.get(name, 0.1), name


def test_a_process_that_ends_early_leaves_no_other_waiting(seen: dict[str, Any]) -> None:
    for name, ranks in seen.items():
        assert [rank["afterwards"] for rank in ranks] == [101, 101], name
