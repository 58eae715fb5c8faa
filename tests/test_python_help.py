"""`help` of the public classes and functions is enough to use them."""

import inspect
import pydoc
import re

import pytest

import lightning_rlhf


@pytest.mark.parametrize("name", lightning_rlhf.__all__)
def test_help_explains_every_argument_before_what_lightning_adds(name: str) -> None:
    shown = getattr(lightning_rlhf, name)
    text = pydoc.plain(pydoc.render_doc(shown))
    own = re.split("inherited from (?:lightning.pytorch|deepspeed|torch)", text)[0]
    for argument in inspect.signature(shown).parameters.values():
        assert re.search(rf"^[ |]*\*{{0,2}}{argument.name}: \S", own, re.MULTILINE), argument.name
