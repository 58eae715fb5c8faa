"""The random walks of trlx: graph, walks, metric, files and tokenizer."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from transformers import AutoTokenizer

from lightning_rlhf.data.formats import read_records
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.randomwalks.graph import GOAL, NODES, Graph, Optimality
from lightning_rlhf.randomwalks.write import HERE, write_data, write_tokenizer
from lightning_rlhf.rewards import TextReward

# With seed 1000, b has edges to d, j, u; d to a, l, t; n to a, b; j to n; t to k; and c to e, k, o, r.
GRAPH = Graph(seed=1000)
COUNTS = {"num_walks": 40, "num_walks_held_out": 10, "answers_per_start": 3}


def expected_optimality(graph: Graph) -> float:
    """Computes the mean optimality of a walker that takes each edge of a node with the same probability, exactly."""
    total = 0.0
    for start in graph.starts:
        at = {start: 1.0}
        for length in range(2, graph.max_length):
            then: dict[str, float] = {}
            for here, probability in at.items():
                for there in graph.successors[here]:
                    then[there] = then.get(there, 0.0) + probability / len(graph.successors[here])
            saved = (graph.max_length - length) / (graph.max_length - graph.shortest[start])
            total += then.pop(GOAL, 0.0) * saved
            at = then
    return total / len(graph.starts)


@pytest.mark.parametrize(
    ("seed", "edges", "shortest", "uniform", "sampled"),
    [(1000, 51, 3.65, 0.3462, 0.3515), (1002, 42, 3.55, 0.7852, 0.7902)],
)
def test_a_seed_draws_what_it_draws_in_trlx(
    seed: int, edges: int, shortest: float, uniform: float, sampled: float
) -> None:
    graph = Graph(seed)
    assert graph.starts == list("bcdefghijklmnopqrstu")
    assert sum(map(len, graph.successors.values())) == edges
    assert sum(graph.shortest[start] for start in graph.starts) / 20 == pytest.approx(shortest)
    assert expected_optimality(graph) == pytest.approx(uniform, abs=5e-5)
    walks = graph.walks(1000)
    assert sum(map(graph.optimality, walks)) / 1000 == pytest.approx(sampled, abs=5e-5)
    assert graph.walks(40) == walks[:40]


@pytest.mark.parametrize("seed", [1, 7, 1000, 1001])
@pytest.mark.parametrize("num_nodes", [12, 30, 62])
def test_shortest_walks_are_those_of_matrix_powers(seed: int, num_nodes: int) -> None:
    graph = Graph(seed, num_nodes)
    nodes = NODES[:num_nodes]
    assert list(graph.successors) == list(nodes[1:])
    steps = np.array([[there in graph.successors.get(here, GOAL) for there in nodes] for here in nodes])
    assert steps.any(axis=1).all()
    assert not steps.diagonal()[1:].any()
    expected, reached = {}, np.eye(num_nodes, dtype=int)
    for length in range(1, graph.max_length):
        # Entry (i, j) is above 0 if and only if a walk of `length` nodes leads from i to j.
        expected |= {node: length for i, node in enumerate(nodes) if reached[i, 0] and node not in expected}
        reached = (reached @ steps > 0).astype(int)
    assert graph.shortest == expected


def test_walks_use_edges_and_stop_at_the_goal_or_at_the_length_limit() -> None:
    for graph in (GRAPH, Graph(seed=3, num_nodes=40, edge_probability=0.2, max_length=6)):
        walks = graph.walks(300)
        assert {walk[0] for walk in walks} == set(NODES[1 : graph.num_nodes])
        assert {walk[-1] == GOAL or len(walk) == graph.max_length for walk in walks} == {True}
        assert not [walk for walk in walks if GOAL in walk[:-1]]
        assert all(there in graph.successors[here] for walk in walks for here, there in pairwise(walk))


@pytest.mark.parametrize(
    ("walk", "optimality"),
    [
        ("bda", 1.0),  # L = L* = 3
        ("bjna", 6 / 7),
        ("bjnbjna", 3 / 7),
        ("bjnbjnbda", 1 / 7),  # L = 9
        ("bjnbjnbjna", 0.0),  # L = 10 = M
        ("bjnbjnbjnbda", 0.0),  # L = 12 does not give less than 0.
        ("ba", 0.0),  # There is no such edge.
        ("bdaa", 1.0),  # What follows the goal does not count.
        ("bda?!", 1.0),
        ("bdl", 0.0),  # The walk does not reach the goal.
        ("b", 0.0),
        ("b?a", 0.0),
        ("b da", 0.0),
        ("BDA", 0.0),
        ("?", 0.0),
        ("", 0.0),
        ("a", 1.0),  # L = L* = 1
        ("na", 1.0),
    ],
)
def test_optimality_compares_a_walk_with_the_shortest_one(walk: str, optimality: float) -> None:
    assert GRAPH.optimality(walk) == pytest.approx(optimality)


def test_a_start_that_reaches_the_goal_too_late_or_never_has_optimality_0_and_is_not_asked() -> None:
    # f, g, i, j, k, m, n and o lead only to each other.
    graph = Graph(seed=1002, num_nodes=15)
    assert graph.starts == list("bcdehl")
    assert {graph.optimality(walk) for walk in graph.walks(500) if walk[0] not in graph.starts} == {0.0}
    # c needs 4 nodes, so 4 - L* would be 0.
    short = Graph(seed=1000, max_length=4)
    assert short.starts == list("bdfijkns")
    assert short.optimality("ckna") == 0.0
    assert short.optimality("bda") == 1.0


# (1 - 0.99 ** 20) ** 21 = 3e-16
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_nodes": 63}, "num_nodes=63: must lie in [2, 62]"),
        ({"num_nodes": 1, "max_length": 2}, "num_nodes=1: must lie in [2, 62]\nmax_length=2: must be at least 3"),
        ({"seed": -1, "edge_probability": 0.0}, "seed=-1: must lie in [0, 2**32)\nedge_probability=0.0: must lie in"),
        ({"edge_probability": 0.01}, "edge_probability=0.01: only 3e-16 of all graphs with num_nodes=21"),
    ],
)
def test_a_graph_that_cannot_be_drawn_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Graph(**({"seed": 1000} | settings))
    assert str(error.value).startswith(message)


def test_a_graph_whose_goal_no_node_reaches_says_so() -> None:
    with pytest.raises(UserError, match=r"^seed=1001: no node .* choose another seed$"):
        _ = Graph(seed=1001).starts


def test_the_reward_reads_prompt_and_response_as_one_walk() -> None:
    reward = TextReward(Optimality(GRAPH))
    assert reward(["b", "b", "n"], ["da", "jna", "q"], [{}] * 3) == pytest.approx([1.0, 6 / 7, 0.0])


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_files_hold_the_walks_and_the_starts(tmp_path: Path) -> None:
    write_data(GRAPH, str(tmp_path / "data"), **COUNTS)
    files = {path.stem: lines(path) for path in (tmp_path / "data").iterdir()}
    walks = [row["prompt"] + row["completion"] for row in files["demonstrations"] + files["demonstrations_held_out"]]
    assert walks == GRAPH.walks(50)
    assert {len(row["prompt"]) for row in files["demonstrations"]} == {1}
    assert len(files["demonstrations"]) == 40
    assert [row["prompt"] for row in files["prompts"]] == GRAPH.starts
    assert files["prompts_held_out"] == files["prompts"] * 3
    assert set(files) == {"demonstrations", "demonstrations_held_out", "prompts", "prompts_held_out"}


def test_a_file_is_replaced_as_a_whole_and_its_bytes_depend_on_the_graph_alone(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        write_data(GRAPH, str(folder), **COUNTS)
    first, again = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == again
    # A process that has the old file open reads it to its end.
    with (folders[0] / "demonstrations.jsonl").open("rb") as old:
        write_data(Graph(seed=7), str(folders[0]), **COUNTS)
        assert old.read() == first["demonstrations.jsonl"]
    changed = {path.name: path.read_bytes() for path in folders[0].iterdir()}
    assert changed.keys() == first.keys()
    assert changed["demonstrations.jsonl"] != first["demonstrations.jsonl"]


def test_the_tokenizer_has_a_token_for_each_node_and_loses_no_plain_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(HERE / "tokenizer")
    ids = tokenizer.encode(NODES)
    assert ids == list(range(3, 65))
    assert tokenizer.decode(ids) == NODES
    text = "Is that so? Yes, {that} is so: 1 + 2 = 3!"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokenize("b\nä") == ["b", "<unk>", "<unk>"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, 98)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_the_committed_tokenizer_is_what_its_writer_writes(name: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    committed, again = (json.loads((folder / name).read_text()) for folder in (HERE / "tokenizer", tmp_path))
    assert committed == again


def test_a_walk_becomes_one_token_a_node_and_eos(tmp_path: Path) -> None:
    write_data(GRAPH, str(tmp_path), **COUNTS)
    renderer = Renderer(AutoTokenizer.from_pretrained(HERE / "tokenizer"), "raw")
    for record in read_records(str(tmp_path / "demonstrations.jsonl"), "completion").rows:
        ids, loss_mask = renderer.conversation(record.messages)
        walk = "".join(message["content"] for message in record.messages)
        assert ids == [3 + NODES.index(node) for node in walk] + [1]
        assert loss_mask == [False] + [True] * len(walk)
        assert renderer.prompt(record.prompt) == ids[:1]
        assert renderer.decode(ids[1:]) == walk[1:]


def test_seed_and_size_are_set_in_one_place() -> None:
    overrides = ["experiment=randomwalks", "data.graph.seed=7", "data.graph.num_nodes=30", "data.graph.max_length=12"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", ["run_dir=run", *overrides])
    graph = Graph(seed=7, num_nodes=30, max_length=12)
    assert instantiate(config.data.write.graph) == graph
    assert instantiate(config.data.gold) == Optimality(graph)
    assert instantiate(config.reward).function == Optimality(graph)
    # The limit allows the rest of a walk, and EOS.
    assert config.rollout.sampling.max_new_tokens == config.rollout.evaluation.max_new_tokens == 12
    assert config.stages == ["sft", "ppo"]
