"""Data sets of pairs: Anthropic's HH, Stanford's SHP, and RewardBench 1 and 2."""

from collections.abc import Mapping
from typing import Any

from lightning_rlhf.data.importing.rows import Dropped, Found, Layout, each, number, pair, text, turns, user
from lightning_rlhf.data.transcripts import is_transcript, transcript


def _hh(row: Mapping[str, Any]) -> Found:
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    if not (is_transcript(chosen) and is_transcript(rejected)):
        yield Dropped("chosen or rejected is no transcript")
        return
    better, worse = transcript(chosen), transcript(rejected)
    if better[:-1] != worse[:-1]:
        yield Dropped("the conversations differ before the last turn")
    elif better[-1]["role"] != "assistant" or worse[-1]["role"] != "assistant":
        yield Dropped("the last turn is not the assistant's")
    else:
        yield from pair(better[:-1], better[-1]["content"], worse[-1]["content"])


def _shp(row: Mapping[str, Any]) -> Found:
    first, second, label = text(row, "human_ref_A"), text(row, "human_ref_B"), number(row.get("labels"))
    if label not in (0, 1):
        yield Dropped("labels is neither 0 nor 1")
        return
    chosen, rejected = (first, second) if label == 1 else (second, first)
    ratio = number(row.get("score_ratio"))
    yield from pair(user(text(row, "history")), chosen, rejected, source=row.get("domain"), score_ratio=ratio)


def _rewardbench(row: Mapping[str, Any]) -> Found:
    yield from pair(turns(row, "prompt"), text(row, "chosen"), text(row, "rejected"), source=row.get("subset"))


def _rewardbench2(row: Mapping[str, Any]) -> Found:
    """Keeps all answers of a prompt together, and makes pairs of each right answer with each wrong one."""
    prompt = turns(row, "prompt")
    right, wrong = _texts(row.get("chosen")), _texts(row.get("rejected"))
    if not prompt or not right or not wrong:
        yield Dropped("the prompt, the chosen or the rejected answers are missing")
        return
    source = row.get("subset")
    known = {} if source is None else {"source": source}
    yield "best_of", {"prompt": prompt, "chosen": right, "rejected": wrong, **known}
    for chosen in right:
        for rejected in wrong:
            yield from pair(prompt, chosen, rejected, source=source)


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one.strip() for one in values if isinstance(one, str) and one.strip()]


HH = Layout("hh", "Anthropic/hh-rlhf", each(_hh))
SHP = Layout("shp", "stanfordnlp/SHP", each(_shp))
REWARDBENCH = Layout("rewardbench", "allenai/reward-bench", each(_rewardbench), split="filtered")
REWARDBENCH2 = Layout("rewardbench2", "allenai/reward-bench-2", each(_rewardbench2), split="test")
