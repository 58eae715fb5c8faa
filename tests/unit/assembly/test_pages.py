"""The pages of `label` and `chat` say what they need before anything else happens."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

import lightning_rlhf.errors
from lightning_rlhf.assembly.chat import chat
from lightning_rlhf.assembly.chat_settings import ChatSettings
from lightning_rlhf.assembly.label import label
from lightning_rlhf.assembly.target_checks import arguments
from lightning_rlhf.errors import UserError


def composed(name: str, *overrides: str) -> Any:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.mark.parametrize("module", ["fastapi", "uvicorn", "markdown_it", "nh3", "pygments", "statsmodels"])
def test_a_package_that_the_page_needs_is_missed_before_the_page_opens(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lightning_rlhf.errors, "find_spec", lambda name: None if name == module else find_spec(name))
    settings = arguments(composed("label", "pairs=x"), "lightning_rlhf.assembly.label.label")
    with pytest.raises(UserError, match=r"label needs the 'web' extra"):
        label(**settings)
    if module != "statsmodels":
        with pytest.raises(UserError, match=r"chat\.web=true needs the 'web' extra"):
            chat(ChatSettings.of(composed("chat", "model_dir=x", "chat.web=true")))
