"""`help` of the public classes and functions is enough to use them."""

import inspect
import pydoc
import re
from collections.abc import Callable, Iterator

import pytest

import lightning_rlhf


@pytest.mark.parametrize("name", lightning_rlhf.__all__)
def test_help_explains_every_argument_before_what_lightning_adds(name: str) -> None:
    shown = getattr(lightning_rlhf, name)
    text = pydoc.plain(pydoc.render_doc(shown))
    own = re.split("inherited from (?:lightning.pytorch|deepspeed|torch)", text)[0]
    for argument in inspect.signature(shown).parameters.values():
        assert re.search(rf"^[ |]*\*{{0,2}}{argument.name}: \S", own, re.MULTILINE), argument.name


def own_methods() -> Iterator[tuple[str, type, Callable[..., object]]]:
    """The public methods of modules, data, texts, rewards and callbacks, unless another library states their contract.

    What a strategy or an engine offers is stated by a protocol.
    """
    for name in lightning_rlhf.__all__:
        shown = getattr(lightning_rlhf, name)
        if not inspect.isclass(shown) or name.endswith(("Strategy", "Engine", "Source")):
            continue
        others = [base for base in shown.__mro__ if not base.__module__.startswith("lightning_rlhf")]
        for method, function in inspect.getmembers(
            shown, lambda part: inspect.isfunction(part) or inspect.ismethod(part)
        ):
            if not method.startswith("_") and not any(hasattr(other, method) for other in others):
                yield f"{name}.{method}", shown, function


METHODS = {name: (shown, function) for name, shown, function in own_methods()}


@pytest.mark.parametrize("name", METHODS)
def test_help_explains_every_argument_of_a_method_or_says_what_does(name: str) -> None:
    shown, function = METHODS[name]
    inherited = [getattr(base, function.__name__, None) for base in shown.__mro__]
    text = "\n".join(filter(None, map(inspect.getdoc, filter(None, inherited))))
    for argument in inspect.signature(function).parameters:
        explained = re.search(rf"^ *\*{{0,2}}{argument}: \S|; see `", text, re.MULTILINE)
        assert argument == "self" or explained, argument
