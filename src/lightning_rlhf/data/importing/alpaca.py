"""Stanford's Alpaca: an instruction, perhaps with an input, and its answer."""

from collections.abc import Mapping
from typing import Any

from lightning_rlhf.data.importing.rows import Dropped, Found, Layout, each, text, user

_NO_INPUT = ("", "<noinput>", "no input", "none", "n/a")


def _alpaca(row: Mapping[str, Any]) -> Found:
    instruction, given, output = text(row, "instruction"), text(row, "input"), text(row, "output")
    if not instruction:
        yield Dropped("the instruction is empty")
    elif not output:
        yield Dropped("the output is empty")
    else:
        parts = [instruction] if given.lower().rstrip(".") in _NO_INPUT else [instruction, given]
        prompt = user("\n\n".join(parts))
        yield "demonstrations", {"prompt": prompt, "completion": output}
        yield "prompts", {"prompt": prompt}


ALPACA = Layout("alpaca", "tatsu-lab/alpaca", each(_alpaca))
