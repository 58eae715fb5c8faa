"""Chat templates that fail, loop, grow, or say nothing; templates may come from anybody."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data import limited, templates
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource


@pytest.fixture
def tokenizer(make_source: Callable[..., ModelSource]) -> PreTrainedTokenizerBase:
    return make_source("llama").load_tokenizer()


# Each renders the probe with which a renderer begins, and shows itself in the second turn.
LATER = "{% for m in messages %}{{ m['content'] }}{% if loop.index > 1 %}HERE{% endif %}{% endfor %}"
TALK: Any = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
FAILING = {
    "division": "{{ 1 / 0 }}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "a range that is too long": "{% for i in range(100001) %}{% endfor %}",
    "an attribute": "{{ messages.x.y }}",
    "internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


@pytest.mark.parametrize("text", FAILING.values(), ids=FAILING)
def test_a_template_that_fails_refuses_the_messages(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    renderer = Renderer(tokenizer, LATER.replace("HERE", text))
    assert renderer.prompt(TALK[:1])
    with pytest.raises(UserError, match="^the chat template refuses the messages: "):
        renderer.prompt(TALK)


LOOPS = "{% for i in range(99999) %}{% for j in range(200) %}{% endfor %}{% endfor %}"
GROWS = "{% set x = namespace(y='a' * 1000) %}{% for i in range(60) %}{% set x.y = x.y ~ x.y %}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "seconds", "message"),
    [(LOOPS, 0.2, "the chat template takes longer than .* it loops without end"), (GROWS, 60, "grows without end")],
    ids=["loops", "grows"],
)
def test_a_template_without_end_is_ended(
    text: str, seconds: float, message: str, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "_SECONDS", seconds)
    monkeypatch.setattr(limited, "MOST_MEMORY", 2**28)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(UserError, match=message):
        Renderer(tokenizer, text + "{{ messages[0]['content'] }}").prompt(TALK)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert len(bytearray(2**29)) == 2**29  # the limit of the memory is gone


def test_a_template_is_rendered_in_a_thread_too(tokenizer: PreTrainedTokenizerBase) -> None:
    """A thread has no alarm."""
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(Renderer(tokenizer, "plain").prompt(TALK)))
    thread.start()
    thread.join()
    assert found == [Renderer(tokenizer, "plain").prompt(TALK)]


def test_a_template_that_leaves_out_what_messages_say_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="does not write what messages say: it makes 'Hello' of any conversation"):
        Renderer(tokenizer, "{{ 'Hello' }}{% for m in messages %}{% endfor %}")
