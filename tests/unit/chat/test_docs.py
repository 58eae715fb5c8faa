"""The table of commands in docs/chat.md."""

import re
from pathlib import Path

from lightning_rlhf.chat.commands import HELP

PAGE = (Path(__file__).parents[3] / "docs" / "chat.md").read_text(encoding="utf-8")


def test_the_table_of_commands_is_the_help_of_the_terminal() -> None:
    shown = dict(re.findall(r"^\| `(/.*?)` \| (.*?) \|$", PAGE, re.MULTILINE))
    assert shown.keys() == HELP.keys()
    assert shown["/regenerate"] == HELP["/regenerate"]
    assert shown["/temperature NUMBER"] == HELP["/temperature NUMBER"]
