"""Stanford's Alpaca: an instruction, perhaps with an input, and its answer; some copies have earlier turns too."""

from collections.abc import Mapping
from typing import Any

from lightning_rlhf.data.fields import Fields
from lightning_rlhf.data.importing.rows import Dropped, Found, Layout, each, text
from lightning_rlhf.data.layouts import conversation

_NO_INPUT = ("", "<noinput>", "no input", "none", "n/a")


def _alpaca(row: Mapping[str, Any]) -> Found:
    told = {name: text(row, name) for name in ("instruction", "input", "output")}
    for name in ("instruction", "output"):
        if not told[name]:
            yield Dropped(f"the {name} is empty")
            return
    if told["input"].lower().rstrip(".") in _NO_INPUT:
        told["input"] = ""
    # `system` and `history` become turns.
    *prompt, answer = conversation(Fields({**row, **told}), "output")
    yield "demonstrations", {"prompt": prompt, "completion": answer["content"]}
    yield "prompts", {"prompt": prompt}


ALPACA = Layout("alpaca", "tatsu-lab/alpaca", each(_alpaca))
