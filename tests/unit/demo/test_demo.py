"""The embedded demo: its gold rule, its committed data and its tokenizer."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_rlhf.demo import write as writer
from lightning_rlhf.demo.gold import CRITERIA, PROBLEMS, RUDE, THINGS, faults, gold, reported, things

FILES = {
    "demonstrations": 3000,
    "preferences": 2400,
    "preferences_held_out": 400,
    "prompts": 1000,
    "prompts_held_out": 256,
}
PROMPT = "My kettle leaks. What should I do?"
GOOD = "I am sorry to hear that. To help the kettle, tighten the seal today."


def rows(name: str) -> list[dict[str, str]]:
    lines = (writer.HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(writer.HERE / "tokenizer")


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    writer.write(folder)
    return folder


@pytest.mark.parametrize(
    ("response", "failed"),
    [
        (GOOD, ()),
        ("to help the KETTLE, Replace the gasket today!", ()),
        ("Such kettles like it if you tighten the seal.", ()),
        (GOOD.replace("kettle", "object"), ("thing",)),
        (GOOD.replace("kettle", "oven"), ("thing",)),
        (GOOD + " Let us know how the oven does.", ("thing",)),
        (GOOD.replace("kettle", "kettledrum"), ("thing",)),
        (GOOD.replace("tighten the seal", "wait and see"), ("step",)),
        (GOOD.replace("tighten the seal", "scrub the spot"), ("step",)),
        (GOOD + " Then scrub the spot.", ("step",)),
        (GOOD.replace("I am sorry to hear that", "This is your own fault"), ("manner",)),
        (GOOD + " Do not write to us again.", ("manner",)),
        (GOOD.removesuffix("."), ("ending",)),
        (GOOD + " And if you", ("ending",)),
        ("Tighten the seal, kettle.", ("ending",)),
        (GOOD + " Very good." * 2, ("ending",)),
        (GOOD + " We are here and here" + " and here" * 12 + ".", ("ending",)),
        ("Stop asking.", CRITERIA),
        ("", CRITERIA),
        (" \n", CRITERIA),
        ("Qwx zzt blorp fnord", ("thing", "step", "ending")),
    ],
)
def test_the_gold_rule_finds_exactly_these_faults(response: str, failed: tuple[str, ...]) -> None:
    assert faults(PROMPT, response) == failed
    assert gold([PROMPT], [response]) == [1 - len(failed) / 4]


def test_the_gold_rule_holds_an_answer_against_its_own_prompt() -> None:
    assert gold([PROMPT, "My oven leaks.", "My kettle stinks."], [GOOD] * 3) == [1.0, 0.75, 0.75]


def test_the_gold_rule_refuses_lists_of_unequal_length() -> None:
    with pytest.raises(ValueError, match="zip"):
        gold([PROMPT, PROMPT], [GOOD])


def test_no_step_fits_two_problems() -> None:
    steps = [step for problem in PROBLEMS.values() for step in problem.steps]
    assert len(steps) == len(set(steps)) == 24


def test_each_rude_part_has_a_rude_phrase_and_its_kind_twin_has_none() -> None:
    for kind, rude in writer.OPENINGS + writer.CLOSINGS:
        assert not any(phrase in kind.lower() for phrase in RUDE), kind
        assert any(phrase in rude.lower() for phrase in RUDE), rude


@pytest.mark.parametrize("name", FILES)
def test_a_committed_data_file_is_what_the_generator_writes(name: str, rewritten: Path) -> None:
    committed = (writer.HERE / f"{name}.jsonl").read_bytes()
    assert committed == (rewritten / f"{name}.jsonl").read_bytes()
    assert len(committed) < 1_000_000


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_the_committed_tokenizer_is_what_the_generator_writes(name: str, rewritten: Path) -> None:
    committed, again = (json.loads((folder / "tokenizer" / name).read_text()) for folder in (writer.HERE, rewritten))
    assert committed == again


def test_no_two_rows_of_all_files_share_a_prompt() -> None:
    prompts = [row["prompt"] for name in FILES for row in rows(name)]
    assert len(prompts) == len(set(prompts)) == sum(FILES.values())


def test_each_prompt_names_one_thing_and_reports_one_problem() -> None:
    for name in FILES:
        for row in rows(name):
            assert len(things(row["prompt"])) == len(reported(row["prompt"])) == 1, row["prompt"]


def test_each_thing_is_in_the_demonstrations_often_enough_to_be_learnt() -> None:
    seen = Counter(thing for row in rows("demonstrations") for thing in things(row["prompt"]))
    assert min(seen[thing] for thing in THINGS) >= 50


def test_the_documented_share_of_demonstrations_is_good_and_each_fault_has_its_rate() -> None:
    failed = [faults(row["prompt"], row["completion"]) for row in rows("demonstrations")]
    assert sum(not broken for broken in failed) / len(failed) == pytest.approx(0.374, abs=0.0005)
    for criterion, rate in writer.RATES.items():
        share = sum(criterion in broken for broken in failed) / len(failed)
        assert share == pytest.approx(rate, abs=0.02), criterion


@pytest.mark.parametrize(("name", "noise"), [("preferences", 0.03), ("preferences_held_out", 0.0)])
def test_the_gold_rule_disagrees_with_the_documented_share_of_pairs(name: str, noise: float) -> None:
    pairs = rows(name)
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (gold(prompts, [pair[key] for pair in pairs]) for key in ("chosen", "rejected"))
    assert all(a != b for a, b in zip(chosen, rejected, strict=True))
    wrong = sum(a < b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)
    assert wrong == pytest.approx(noise, abs=0.01 if noise else 0)


def _accuracy(pairs: list[dict[str, str]], score: Callable[[str], float]) -> float:
    """Returns the share of pairs in which ``chosen`` scores higher; a tie counts half."""
    margins = [score(pair["chosen"]) - score(pair["rejected"]) for pair in pairs]
    return sum((margin > 0) + (margin == 0) / 2 for margin in margins) / len(pairs)


@pytest.mark.parametrize("name", ["preferences", "preferences_held_out"])
def test_length_does_not_tell_the_chosen_answer(name: str) -> None:
    assert 0.45 <= _accuracy(rows(name), lambda text: len(text.split())) <= 0.55
    assert 0.45 <= _accuracy(rows(name), len) <= 0.55


def test_no_single_word_tells_the_chosen_answer_in_most_pairs() -> None:
    pairs = rows("preferences")
    lead = Counter[str]()
    for pair in pairs:
        lead.update(set(pair["chosen"].split()))
        lead.subtract(set(pair["rejected"].split()))
    # A rule of one word is right in half of all pairs, plus or minus half its lead; "object" has the largest lead.
    assert max(abs(count) / len(pairs) / 2 for count in lead.values()) < 0.15


def test_no_constant_answer_is_good_for_many_prompts() -> None:
    prompts = [row["prompt"] for row in rows("prompts_held_out")]
    answers = {row["completion"] for row in rows("demonstrations") if not faults(row["prompt"], row["completion"])}
    best = max(sum(not faults(prompt, answer) for prompt in prompts) for answer in sorted(answers)[::60])
    assert 0 < best < 0.1 * len(prompts)


@pytest.mark.parametrize(
    "text", ["Plain words.", " two  spaces , and\n\ttabs ", "naïve Ærøskøbing 漢字 👩‍🔬 \x00\u202e", ""]
)
def test_the_tokenizer_loses_nothing_of_any_text(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_each_word_for_a_thing_is_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert [thing for thing in THINGS if len(tokenizer.tokenize(f" {thing}")) != 1] == []


def test_the_special_tokens_are_four_and_pad_is_not_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    assert set(tokenizer.all_special_tokens) == {"<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"}
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<|pad|>", "<|end|>", None)


def test_the_tokenizer_config_names_a_class_that_all_supported_transformers_know() -> None:
    config = json.loads((writer.HERE / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_chat_of_each_turn_begins_with_the_chat_before_it(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [("user", PROMPT), ("assistant", GOOD), ("user", "Thanks"), ("assistant", "You are welcome.")]
    chat = [{"role": role, "content": content} for role, content in turns]
    prefixes = [
        str(tokenizer.apply_chat_template(chat[:end], tokenize=False, add_generation_prompt=end % 2 == 1))
        for end in range(1, 5)
    ]
    assert prefixes[1] == f"<|user|>{PROMPT}<|assistant|>{GOOD}<|end|>"
    for shorter, longer in pairwise(prefixes):
        assert longer.startswith(shorter)
        ids, more = tokenizer.encode(shorter), tokenizer.encode(longer)
        assert more[: len(ids)] == ids


def test_a_role_that_the_chat_does_not_know_is_refused_by_name(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(Exception, match="user and assistant, not system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be kind."}], tokenize=False)
