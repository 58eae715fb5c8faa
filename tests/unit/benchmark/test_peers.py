"""benchmarks/peers: all programs get the same work, and the ratio is what it says."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
TINY = {
    "config": {"model_type": "gpt2", "vocab_size": 814, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2},
    **{"rows": 6, "batch": 3, "shortest": 4, "longest": 9, "most": 5, "threads": 1, "repeats": 1},
}


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    names = ("compare", "environments", "rows", "work")
    monkeypatch.syspath_prepend(BENCHMARKS / "peers")
    # Other tests have modules of the same names.
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield SimpleNamespace(**{name: import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


def test_every_row_names_programs_environments_and_work_that_exist(peers: SimpleNamespace) -> None:
    for row in peers.rows.ROWS.values():
        work = peers.work.Work(**peers.compare.work_of(row, ["repeats=7"]))
        assert (work.repeats, work.threads) == (7, 2)
        assert work.rows % work.batch == 0
        assert (BENCHMARKS / row.ours[0]).is_file()
        assert row.peers
        for peer in row.peers:
            assert (BENCHMARKS / "peers" / peer.command[0]).is_file()
            assert peer.environment in peers.environments.ENVIRONMENTS


def test_pairs_begin_with_the_same_prompt_and_have_the_bounds(peers: SimpleNamespace) -> None:
    pairs = peers.work.Work(**TINY).pairs()
    assert len(pairs) == 6
    for prompt, chosen, rejected in pairs:
        assert chosen[:prompt] == rejected[:prompt]
        assert chosen[prompt:] != rejected[prompt:]
        assert prompt == min(len(chosen), len(rejected)) // 2
        assert all(4 <= len(row) <= 9 for row in (chosen, rejected))


def test_the_ratio_is_that_of_the_medians_and_the_spread_that_of_the_turns(peers: SimpleNamespace) -> None:
    # Turns of 2, 3 and 5 times; medians of 6 and 2.
    assert peers.compare.faster_by([2.0, 6.0, 20.0], [1.0, 2.0, 4.0]) == (3, 2, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["rollout.py"], ["peers/transformers_generate.py"], ["update.py", "sft"], ["update.py", "reward"]],
    ids=" ".join,
)
@pytest.mark.parametrize("mean", [None, 3])
def test_a_program_does_the_work_and_says_how_fast(
    command: list[str], mean: int | None, peers: SimpleNamespace
) -> None:
    script, *rest = command
    found = peers.compare.run([sys.executable], [str(BENCHMARKS / script), *rest], {**TINY, "mean": mean})
    assert found["rate"] > 0
    if "tokens" in found:
        # Six responses of five tokens, or of at least one.
        assert found["tokens"] == 30 if mean is None else 6 <= found["tokens"] < 30


def test_a_program_that_hangs_ends_the_comparison_with_what_was_measured(
    peers: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The first program leaves a result, and the second one hangs.
    fast, slow = (tmp_path / name for name in ("fast.py", "slow.py"))
    fast.write_text("import pathlib, sys; pathlib.Path(sys.argv[2]).write_text('{\"rate\": 7.5}')")
    slow.write_text("import time; print('so far', flush=True); time.sleep(600)")
    monkeypatch.setattr(peers.compare, "_SECONDS", 2)
    monkeypatch.setattr(peers.compare, "python_of", lambda envs, name: sys.executable)
    peer = peers.rows.Program(name="slow", environment="trl", command=(str(slow),))
    row = peers.rows.Row(what="", model="", work={}, ours=(str(fast),), peers=(peer,), unit="tokens/s")
    with pytest.raises(SystemExit) as caught:
        peers.compare.turns(row, TINY, tmp_path, 2, [])
    first, *others, last = str(caught.value).splitlines()
    assert first == f"{slow} has not ended after 2 seconds:"
    assert "so far" in others
    assert last == 'measured until then, in tokens/s: {"ours": [7.5], "slow": []}'


def test_a_program_that_fails_shows_what_it_wrote(peers: SimpleNamespace) -> None:
    with pytest.raises(SystemExit, match="has failed"):
        peers.compare.run([sys.executable], [str(BENCHMARKS / "rollout.py"), "rollout=nothing"], TINY)
