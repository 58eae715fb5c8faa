"""Writes the data of a graph before a run. `python -m lightning_rlhf.randomwalks.write` writes the tokenizer."""

import json
import os
import string
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from lightning_rlhf.randomwalks.graph import NODES, Graph

HERE = Path(__file__).parent

Row = dict[str, str]


def write_data(graph: Graph, folder: str, *, num_walks: int, num_walks_held_out: int, answers_per_start: int) -> None:
    """Writes `demonstrations`, `demonstrations_held_out`, `prompts` and `prompts_held_out` as JSONL files.

    The prompt is the start of a walk, and the completion is the rest of it. The same arguments give the same bytes, and
    each file is put in place as a whole, so several processes may write the same files at once.

    Args:
        graph: The graph to walk on.
        folder: Folder for the files.
        num_walks: Number of walks to learn from.
        num_walks_held_out: Number of walks to measure the loss on, which are drawn after the others.
        answers_per_start: How often each start occurs among the held-out prompts; more answers make the mean over
            sampled answers more reliable.

    Raises:
        UserError: If no node of the graph reaches the goal.
    """
    walks = [{"prompt": walk[0], "completion": walk[1:]} for walk in graph.walks(num_walks + num_walks_held_out)]
    starts = [{"prompt": start} for start in graph.starts]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, rows in {
        "demonstrations": walks[:num_walks],
        "demonstrations_held_out": walks[num_walks:],
        "prompts": starts,
        "prompts_held_out": starts * answers_per_start,
    }.items():
        _write_rows(Path(folder) / f"{name}.jsonl", rows)


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
    os.replace(partial, path)


def write_tokenizer(folder: Path = HERE / "tokenizer") -> None:
    """Writes a tokenizer whose tokens are characters; `AutoTokenizer.from_pretrained(folder)` loads it.

    The names of nodes come first, followed by the rest of printable ASCII, so that any plain text can be a prompt.
    """
    from tokenizers import Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import BPE

    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    characters = [*NODES, *string.punctuation, " "]
    vocabulary = {token: number for number, token in enumerate([*special.values(), *characters])}
    # Without merges, every character remains a separate token.
    tokenizer = Tokenizer(BPE(vocabulary, merges=[], unk_token=special["unk_token"]))
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens(list(special.values()))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    # All versions of transformers since 4.57 read these keys alike; the output of save_pretrained differs between them.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_tokenizer()
