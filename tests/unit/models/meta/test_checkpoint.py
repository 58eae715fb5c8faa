"""Meta's LLaMA folders: converted weights give the model of the papers, and faults in a folder are named."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from meta_llama import (
    LLAMA_1,
    LLAMA_2,
    LLAMA_3,
    LLAMA_3_1,
    meta_logits,
    random_weights,
    write_checkpoint,
    write_params,
    write_shards,
    write_tiktoken,
)
from safetensors import safe_open
from safetensors.torch import load_file
from support import environ
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.meta.checkpoint import open_checkpoint
from lightning_rlhf.models.meta.convert import convert
from lightning_rlhf.models.meta.layout import MetaParams

IDS = torch.randint(0, 400, (2, 200), generator=torch.Generator().manual_seed(0))
# What Meta's own files contain, and what Hugging Face's copies have: feed-forward size, K·d, context length.
PUBLISHED = {
    "7B": (dict(dim=4096, n_heads=32, n_layers=32, multiple_of=256, norm_eps=1e-6), 11008, 4096, 2048),
    "13B": (dict(dim=5120, n_heads=40, n_layers=40, multiple_of=256, norm_eps=1e-6), 13824, 5120, 2048),
    "33B": (dict(dim=6656, n_heads=52, n_layers=60, multiple_of=256, norm_eps=1e-6), 17920, 6656, 2048),
    "65B": (dict(dim=8192, n_heads=64, n_layers=80, multiple_of=256, norm_eps=1e-5), 22016, 8192, 2048),
    "2-7B": (dict(dim=4096, n_heads=32, n_layers=32, multiple_of=256, norm_eps=1e-5), 11008, 4096, 4096),
    "2-70B": (
        dict(dim=8192, n_heads=64, n_kv_heads=8, n_layers=80, multiple_of=4096, ffn_dim_multiplier=1.3),
        28672,
        1024,
        4096,
    ),
    "code-7B": (
        dict(dim=4096, n_heads=32, n_layers=32, multiple_of=256, ffn_dim_multiplier=1.0, rope_theta=1e6),
        11008,
        4096,
        16384,
    ),
    "3-8B": (
        dict(dim=4096, n_heads=32, n_kv_heads=8, n_layers=32, multiple_of=1024, ffn_dim_multiplier=1.3, rope_theta=5e5),
        14336,
        1024,
        8192,
    ),
    "3.2-1B": (
        dict(
            dim=2048,
            n_heads=32,
            n_kv_heads=8,
            n_layers=16,
            multiple_of=256,
            ffn_dim_multiplier=1.5,
            rope_theta=5e5,
            use_scaled_rope=True,
        ),
        8192,
        512,
        131072,
    ),
}


def converted(folder: Path, max_shard_bytes: int = 10**9, dtype: torch.dtype | None = None) -> Path:
    convert(open_checkpoint(str(folder), "input_dir"), folder / "out", dtype=dtype, max_shard_bytes=max_shard_bytes)
    return folder / "out"


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")(IDS).logits


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("params", [LLAMA_1, LLAMA_2, LLAMA_3, LLAMA_3_1], ids=["1", "2", "3", "3.1"])
def test_the_net_has_the_logits_of_the_papers_however_many_files_it_comes_in(
    params: dict[str, Any], count: int, tmp_path: Path
) -> None:
    weights = write_checkpoint(tmp_path, params, count)
    torch.testing.assert_close(logits(converted(tmp_path)), meta_logits(params, weights, IDS), atol=2e-5, rtol=0)


@pytest.mark.parametrize("absent", [False, True])
def test_an_output_that_is_the_embedding_is_not_written_twice_and_has_the_rope_of_llama_3_2(
    absent: bool, tmp_path: Path
) -> None:
    weights = random_weights(LLAMA_3_1, 520)
    weights["output.weight"] = weights["tok_embeddings.weight"] = weights["tok_embeddings.weight"] / 11
    given = {name: weight for name, weight in weights.items() if not (absent and name == "output.weight")}
    write_params(tmp_path, LLAMA_3_1)
    write_tiktoken(tmp_path)
    write_shards(tmp_path, given, 2, embedding_dim=0)
    folder = converted(tmp_path)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert AutoConfig.from_pretrained(folder).tie_word_embeddings
    expected = meta_logits(LLAMA_3_1, weights, IDS, factor=32.0)
    torch.testing.assert_close(logits(folder), expected, atol=2e-5, rtol=0)
    # These ids distinguish the two factors.
    assert (meta_logits(LLAMA_3_1, weights, IDS, factor=8.0) - expected).abs().max() > 1e-3


def test_an_output_that_begins_like_the_embedding_is_written(tmp_path: Path) -> None:
    weights = random_weights(LLAMA_3, 520)
    weights["output.weight"][0] = weights["tok_embeddings.weight"][0]
    write_params(tmp_path, LLAMA_3)
    write_tiktoken(tmp_path)
    write_shards(tmp_path, weights, 1)
    assert torch.equal(load_file(converted(tmp_path) / "model.safetensors")["lm_head.weight"], weights["output.weight"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_context_are_those_of_the_published_models(name: str) -> None:
    said, ffn_dim, kv_dim, context_length = PUBLISHED[name]
    params = MetaParams(**said)
    assert (params.ffn_dim, params.kv_dim, params.context_length) == (ffn_dim, kv_dim, context_length)


def test_every_weight_is_in_one_file_that_the_index_names_and_no_file_is_too_large(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, LLAMA_2, 2)
    folder = converted(tmp_path, max_shard_bytes=250_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    found = {}
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 250_000
        found |= dict.fromkeys(tensors, file.name)
    assert len(set(found.values())) > 2
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in weights.values())


def test_weights_keep_their_dtype_unless_another_is_asked_for(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, LLAMA_1)
    write_shards(tmp_path, {name: weight.half() for name, weight in weights.items()}, 2)
    for asked, expected in [(None, torch.float16), (torch.bfloat16, torch.bfloat16)]:
        folder = converted(tmp_path, dtype=asked)
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {expected}  # noqa: SIM118
        assert AutoConfig.from_pretrained(folder).dtype == expected


def test_stop_tokens_are_all_those_of_the_generation(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LLAMA_3_1)
    assert GenerationConfig.from_pretrained(converted(tmp_path)).eos_token_id == [264 + 1, 264 + 8, 264 + 9]
    write_checkpoint(tmp_path, LLAMA_3)
    assert GenerationConfig.from_pretrained(converted(tmp_path)).eos_token_id == [264 + 1, 264 + 9]


def _params(**changes: Any) -> Any:
    return lambda folder: write_params(folder, LLAMA_2 | changes)


def _lose(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _cut(name: str) -> Any:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def _edit(change: Any, number: int = 2) -> Any:
    def edit(folder: Path) -> None:
        file = folder / f"consolidated.{number:02}.pth"
        tensors = torch.load(file)
        change(tensors)
        torch.save(tensors, file)

    return edit


def _fill(content: bytes) -> Any:
    return lambda folder: (folder / "consolidated.02.pth").write_bytes(content)


def _old_format(folder: Path) -> None:
    file = folder / "consolidated.02.pth"
    torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)


def _another(folder: Path) -> None:
    (folder / "consolidated.04.pth").write_bytes((folder / "consolidated.00.pth").read_bytes())


QUERY = "layers.0.attention.wq.weight"
WRONG = {
    "no params": (_lose("params.json"), r"there is no params\.json; give the folder"),
    "broken params": (_cut("params.json"), r"params\.json is not in Meta's format"),
    "no dim": (lambda folder: write_params(folder, {"n_layers": 2}), r"params\.json is not .* 'dim'"),
    "no layers": (_params(n_layers=0), "all sizes must be positive"),
    "odd heads": (_params(n_heads=9), r"n_heads=9 must divide dim=128"),
    "text for a number": (_params(dim="large"), r"params\.json is not in Meta's format"),
    **{
        f"{name}={value!r}": (
            _params(**{name: value}),
            rf"params\.json is not in .*{name}={json.dumps(value)}: of the wrong type",
        )
        for name, value in [
            ("norm_eps", "x"),
            ("rope_theta", "1e4"),
            ("n_layers", 2.0),
            ("use_scaled_rope", "no"),
            ("dim", True),
            ("norm_eps", None),
        ]
    },
    "negative epsilon": (_params(norm_eps=-1), r"norm_eps, rope_theta and max_seq_len must be positive"),
    "no number for an epsilon": (_params(norm_eps=float("nan")), r"norm_eps, rope_theta and max_seq_len must be"),
    "no weights": (lambda folder: [file.unlink() for file in folder.glob("*.pth")], r"no consolidated\.00\.pth"),
    "hole": (_lose("consolidated.01.pth"), r"\.01\.pth is missing, although consolidated\.03\.pth is there"),
    "end lost": (_lose("consolidated.03.pth"), r"belong to a model in 4 file\(s\), but there are 3"),
    "one too many": (_another, r"belong to a model in 4 file\(s\), but there are 5"),
    "truncated": (_cut("consolidated.02.pth"), r"consolidated\.02\.pth is cut off"),
    "empty": (_fill(b""), r"consolidated\.02\.pth is empty"),
    "web page": (_fill(b"\n<!DOCTYPE html><p>log in"), r"consolidated\.02\.pth is a web page"),
    "pointer": (_fill(b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
    "old format": (_old_format, r"consolidated\.02\.pth is in the format before PyTorch 1\.6.* torch\.save\(torch"),
    "a number": (_edit(lambda t: t.update({QUERY: torch.ones(())}), 0), rf"{QUERY} has the shape"),
    "code": (lambda folder: torch.save({"a": Path()}, folder / "consolidated.02.pth"), "or contains more than tensors"),
    "no names": (
        lambda folder: torch.save([torch.ones(1)], folder / "consolidated.02.pth"),
        "not contain a dictionary",
    ),
    "unknown": (_edit(lambda t: t.update(extra=torch.ones(1))), r"02\.pth contains tensors that no LLaMA has: extra"),
    "absent": (_edit(lambda t: t.pop("layers.1.ffn_norm.weight")), r"02\.pth lacks layers\.1\.ffn_norm\.weight"),
    "too few layers": (_params(n_layers=1), r"tensors that no LLaMA has: layers\.1\.\S+, \S+, \S+ and 6 more"),
    "other inner size": (_params(ffn_dim_multiplier=2.0), r"layers\.0\.feed_forward\.w1\.weight has the shape"),
    "no tokenizer": (_lose("tokenizer.model"), r"no tokenizer\.model in this folder or in its parent"),
    "broken tokenizer": (_cut("tokenizer.model"), "neither a SentencePiece model nor a tiktoken file"),
    "other tokenizer": (write_tiktoken, r"tok_embeddings\.weight has the shape"),
    "other vocabulary": (_params(vocab_size=999), r"vocab_size=999, but tokenizer\.model has 400 tokens"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_a_folder_is_named_and_nothing_is_written(wrong: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LLAMA_2, 4)
    spoil, message = WRONG[wrong]
    spoil(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        converted(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_the_tokenizer_may_lie_beside_the_folders_of_several_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "7B"
    folder.mkdir()
    write_checkpoint(folder, LLAMA_1)
    (folder / "tokenizer.model").rename(tmp_path / "tokenizer.model")
    assert open_checkpoint(str(folder), "input_dir").config().vocab_size == 400


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LLAMA_2, 2)
    checkpoint = open_checkpoint(str(tmp_path), "input_dir")
    before = sorted(tmp_path.iterdir())
    # To a process, a limit on file sizes looks like a full disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(UserError, match="out: cannot be written"):
            convert(checkpoint, tmp_path / "out", dtype=None, max_shard_bytes=10**9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_no_more_is_in_memory_than_one_output_file_and_two_copies_of_a_weight(
    dtype: torch.dtype | None, tmp_path: Path
) -> None:
    params = {**LLAMA_1, "dim": 512, "n_layers": 12, "multiple_of": 512}
    weights = write_checkpoint(tmp_path, params, 4)
    total, largest = (how(weight.nbytes for weight in weights.values()) for how in (sum, max))
    assert total > 150e6
    # The files have 4 bytes for each element.
    largest = largest // 4 * (dtype or torch.float32).itemsize
    code = f"""
import threading, time, torch
from pathlib import Path
from lightning_rlhf.models.meta.checkpoint import open_checkpoint
from lightning_rlhf.models.meta.convert import convert
from lightning_rlhf.models.meta.tokenizer import read_tokenizer
read_tokenizer(Path({str(tmp_path)!r}), "input_dir", True).build()

def anonymous():  # pages of no file, in bytes
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

peak = start = anonymous()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())
done = threading.Event()
thread = threading.Thread(target=watch)
thread.start()
checkpoint = open_checkpoint({str(tmp_path)!r}, "input_dir")
convert(checkpoint, Path({str(tmp_path / "out")!r}), dtype={dtype}, max_shard_bytes=20_000_000)
done.set()
thread.join()
print(peak - start)
"""
    # MKL would keep the buffers of its products.
    environment = environ(MKL_DISABLE_FAST_MM="1")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    growth = int(done.stdout)
    # One output file and two copies of a weight, while parts are joined and reordered; plus room for the interpreter.
    assert growth < 20e6 + 2 * largest + 10e6
    # The watch has seen the conversion.
    assert growth > 10e6
