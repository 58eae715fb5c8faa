"""Markdown as HTML that cannot do anything."""

import re

import pytest

from lightning_rlhf.web.markdown import code_css, to_html

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![pixel](https://elsewhere.example/pixel.png)",
    "[click](javascript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "<a href='https://a.b' onclick='alert(1)' style='position:fixed'>x</a>",
    "<!-- --><svg/onload=alert(1)>",
    '<https://a.b/"onmouseover=alert(1)>',
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "<style>body{display:none}</style>",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_a_sample_full_of_html_is_shown_as_text(text: str) -> None:
    html = to_html(text)
    tags = re.findall(r"<(\w+)([^>]*)>", html)
    assert {name for name, _ in tags} <= {"p", "a", "pre", "code", "span"}
    for _, attributes in tags:
        assert set(re.findall(r"(\w+)=\"", attributes)) <= {"href", "rel", "class"}
        assert re.findall(r'href="(\w+):', attributes) in ([], ["https"])


def test_html_keeps_all_its_characters() -> None:
    assert to_html("a <b>c</b> & d") == "<p>a &lt;b&gt;c&lt;/b&gt; &amp; d</p>\n"


def test_markdown_becomes_elements_and_a_line_end_stays() -> None:
    html = to_html("# One\n\n- **two**\n\n`three`\nfour\n\n| a |\n|---|\n| ~~b~~ |")
    for part in ("<h1>One</h1>", "<li><strong>two</strong></li>", "<code>three</code><br>", "<td><s>b</s></td>"):
        assert part in html


def test_links_tell_their_target_nothing() -> None:
    assert to_html("[a](https://b.c)") == ('<p><a href="https://b.c" rel="noopener noreferrer nofollow">a</a></p>\n')


def test_code_of_a_known_language_is_coloured_by_classes_that_the_style_sheet_has() -> None:
    html = to_html("```python\ndef f(): pass\n```")
    (keyword,) = set(re.findall(r'<span class="(\w+)">def</span>', html))
    light, _, dark = code_css().partition("@media")
    for half in (light, dark):
        assert re.search(rf"pre \.{keyword} \{{ (color|font)", half)
    assert to_html("```nonsense\nx < y\n```") == '<pre><code class="language-nonsense">x &lt; y\n</code></pre>\n'
