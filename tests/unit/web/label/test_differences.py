"""Words in which texts differ."""

import re
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.web.label.differences import differences


def test_words_that_differ_are_marked() -> None:
    one, other = differences(["Tighten the lid, please.", "Tighten the seal now, please."])
    assert one == "Tighten the <mark>lid</mark>, please."
    assert other == "Tighten the <mark>seal now</mark>, please."


def test_each_text_is_compared_with_the_first_and_the_first_with_the_second() -> None:
    assert differences(["a b", "a c", "a b d"]) == ["a <mark>b</mark>", "a <mark>c</mark>", "a b <mark>d</mark>"]


def test_space_does_not_count_and_chinese_is_compared_character_by_character() -> None:
    assert differences(["a  b\n", "\ta\nb"]) == ["a  b\n", "\ta\nb"]
    assert differences(["水壶漏水", "水杯漏水 now"]) == [
        "水<mark>壶</mark>漏水",
        "水<mark>杯</mark>漏水 <mark>now</mark>",
    ]


@given(st.lists(st.text(alphabet="ab <>&\"'\n.é"), min_size=2, max_size=4))
def test_nothing_is_lost_and_everything_is_escaped(texts: list[str]) -> None:
    for text, html in zip(texts, differences(texts), strict=True):
        assert unescape(re.sub(r"</?mark>", "", html)) == text
        assert not re.search(r"<(?!/?mark>)", html)


def test_long_texts_are_compared_too() -> None:
    words = [f"word{n}" for n in range(3000)]
    one, other = differences([" ".join(words), " ".join(["other", *words[1:]])])
    assert one.startswith("<mark>word0</mark> word1 ")
    assert other.startswith("<mark>other</mark> word1 ")
