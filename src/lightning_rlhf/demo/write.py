"""Writes the data files and the tokenizer of the demo: ``python -m lightning_rlhf.demo.write``.

Every answer is drawn from one mixture, which violates each criterion of the gold rule independently, at its rate in
``RATES``. Demonstrations therefore contain good and bad answers (0.374 are fully good), and preference pairs teach each
criterion. A pair consists of two independent answers to one prompt or, in a share of ``NEAR_MISSES``, of an answer and
the same answer with one more fault; the answer with the higher gold score is chosen. As with human annotators, the
labels of a share of ``LABEL_NOISE`` are swapped, except in the held-out pairs. All prompts in all files are different.

A fault of ``thing`` or ``step`` is mostly visible in the answer alone ("object", or vague advice). In a share of
``BESIDE_THE_PROMPT`` it is another thing or a step for another problem, visible only in comparison with the prompt. A
reward model of this size learns little of the latter, so some room for reward hacking remains, as in reality.

Good and bad parts form pairs of similar length and similar words, so neither the length nor a single word reveals them.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from lightning_rlhf.demo.gold import PROBLEMS, THINGS, faults

HERE = Path(__file__).parent
SEED = 20240
RATES = {"thing": 0.28, "step": 0.28, "manner": 0.2, "ending": 0.08}
NEAR_MISSES = 0.5
BESIDE_THE_PROMPT = 0.1
LABEL_NOISE = 0.03
VOCABULARY = 1024

Row = dict[str, str]

HAPPENS_TO = {
    "leak": "kettle fridge dishwasher washer shower",
    "power": "kettle toaster oven lamp printer laptop heater",
    "noise": "fridge washer dishwasher printer heater laptop",
    "smell": "fridge oven dishwasher washer toaster",
    "jam": "door window oven washer printer",
    "stain": "sofa door window lamp",
}

QUESTIONS = (
    "{What} {does}. What should I do?",
    "Hello, {what} {does}, can you help?",
    "{What} {does} {time}. Any ideas?",
    "Help, {what} {does}! What now?",
    "Could you tell me what to do when {what} {does}?",
    "I see that {what} {does} {time}. How do I fix this?",
    "What can I do if {what} {does} {time}?",
    "Good morning, {what} {does} {time} and I need some advice.",
    "Please help me, {what} {does} {time}.",
    "Is there a way to fix it when {what} {does}?",
    "{What} {does}, and I do not know why. What would you do?",
    "I have a question: {what} {does} {time}. Can it be fixed?",
    "My friend says you can help. {What} {does} {time}.",
    "It is strange, {what} {does} {time}. How can I repair it?",
)
WHATS = (
    "my {thing}",
    "our {thing}",
    "my old {thing}",
    "our new {thing}",
    "the {thing} of my sister",
    "the {thing} of our neighbour",
    "the {thing} upstairs",
    "the {thing} at home",
    "the {thing} in my flat",
    "the {thing} from my parents",
)
TIMES = ("again", "today", "now", "this week", "this morning", "these days", "once more")

OPENINGS = (  # (kind, rude)
    ("I am sorry to hear that.", "I am not sorry for you."),
    ("I am sorry that your {thing} gives you trouble.", "I am sure that you ruined your {thing} yourself."),
    ("Thank you for asking us about your {thing}.", "Please stop asking us about your {thing}."),
    ("This is not your fault at all.", "This is your own fault, as always."),
    ("Do not worry, this happens to many people.", "Do not bother us, other people can manage."),
    ("It is good that you ask, we know this well.", "It is bad that you ask, you should know this."),
    ("Hello, we are very glad to help you.", "Hello, we are too busy to help you."),
    ("Many people have this with their {thing}.", "Only you have this with your {thing}."),
)
ADVICE = (
    "You can {step} and then try the {thing} again {when}.",
    "To help the {thing}, {step} {when}.",
    "Please {step}, then use the {thing} as before.",
    "With this kind of {thing}, {step} {when}.",
    "First {step}, then leave the {thing} alone for an hour.",
    "The {thing} gets better if you {step} {when}.",
    "We suggest that you {step} before you use the {thing} again.",
    "It often helps to {step} and to watch the {thing} {when}.",
)
VAGUE = ("simply keep waiting", "give it time", "think it over", "trust your feelings", "have some patience")
WHENS = ("today", "tonight", "with some care", "when you have time", "as soon as you can", "once or twice")
CLOSINGS = (  # (kind, rude)
    ("Write to us again if it does not help.", "Do not write to us again about this thing."),
    ("Let us know how the {thing} does.", "We do not care how the {thing} does."),
    ("We are always here for you.", "We are not here for you."),
    ("We hope that your {thing} is soon fine again.", "We hope to never hear of your {thing} again."),
    ("Have a nice day and do not give up.", "Have a nice day and leave us alone."),
    ("You will surely manage this well.", "You will surely fail at this."),
    ("Feel free to ask about the {thing} again.", "Nobody wants to hear about the {thing} again."),
)
BEGUN = ("And if you", "After that the", "Then you can just", "When it is", "You may also", "But do not")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ raise_exception('The roles of this chat are user and assistant, not ' + message['role'] + '.') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _prompt(rng: Random, thing: str, problem: str) -> str:
    what = rng.choice(WHATS).format(thing=thing)
    does = rng.choice(PROBLEMS[problem].signs)
    return rng.choice(QUESTIONS).format(what=what, What=what.capitalize(), does=does, time=rng.choice(TIMES))


def _questions(rng: Random) -> Iterator[tuple[str, str, str]]:
    """Yields (prompt, thing, problem) without end; each prompt occurs once."""
    problems = {thing: [name for name, of in HAPPENS_TO.items() if thing in of.split()] for thing in THINGS}
    seen = set()
    while True:
        thing = rng.choice(THINGS)
        problem = rng.choice(problems[thing])
        prompt = _prompt(rng, thing, problem)
        if prompt not in seen:
            seen.add(prompt)
            yield prompt, thing, problem


def _answer(rng: Random, thing: str, problem: str, broken: set[str]) -> str:
    """Draws an answer that violates the criteria in ``broken``.

    The draws from ``rng`` do not depend on ``broken``, so answers from equal generators differ only in their faults.
    """
    other = rng.choice([name for name in THINGS if name != thing])
    wrong_name = other if rng.random() < BESIDE_THE_PROMPT else "object"
    misfit = rng.choice([step for name in PROBLEMS if name != problem for step in PROBLEMS[name].steps])
    wrong_step = misfit if rng.random() < BESIDE_THE_PROMPT else rng.choice(VAGUE)
    right_step = rng.choice(PROBLEMS[problem].steps)
    parts = rng.choice(["opening", "closing", "both", "both"])
    rude_part = rng.choice(["opening", "closing", "both"]) if parts == "both" else parts

    opening, advice, closing = rng.choice(OPENINGS), rng.choice(ADVICE), rng.choice(CLOSINGS)
    when, begun, lost = rng.choice(WHENS), rng.choice(BEGUN), rng.choice([0, 0, 1, 2])

    rude = {part: "manner" in broken and rude_part in (part, "both") for part in ("opening", "closing")}
    sentences = [opening[rude["opening"]]] if parts != "closing" else []
    sentences.append(advice.replace("{step}", wrong_step if "step" in broken else right_step).replace("{when}", when))
    sentences += [closing[rude["closing"]]] if parts != "opening" else []
    text = " ".join(sentences)

    text = text.replace("{thing}", wrong_name if "thing" in broken else thing)
    if "ending" not in broken:
        return text
    return text.rsplit(maxsplit=lost)[0].rstrip(".,") if lost else f"{text} {begun}"


def _broken(rng: Random) -> set[str]:
    return {criterion for criterion, rate in RATES.items() if rng.random() < rate}


def _pair(rng: Random, prompt: str, thing: str, problem: str) -> tuple[str, str]:
    """Draws two answers, and returns the better one first."""
    while True:
        seed, broken = rng.random(), _broken(rng)
        first = _answer(Random(seed), thing, problem, broken)
        if rng.random() < NEAR_MISSES:
            second = _answer(Random(seed), thing, problem, broken | set(rng.choices(list(RATES), list(RATES.values()))))
        else:
            second = _answer(rng, thing, problem, _broken(rng))
        better, worse = sorted((first, second), key=lambda response: len(faults(prompt, response)))
        if len(faults(prompt, better)) < len(faults(prompt, worse)):
            return better, worse


def _demonstrations(rng: Random, questions: Iterator[tuple[str, str, str]], count: int) -> Iterator[Row]:
    for prompt, thing, problem in islice(questions, count):
        yield {"prompt": prompt, "completion": _answer(rng, thing, problem, _broken(rng))}


def _preferences(rng: Random, questions: Iterator[tuple[str, str, str]], count: int, noise: float) -> Iterator[Row]:
    for prompt, thing, problem in islice(questions, count):
        better, worse = _pair(rng, prompt, thing, problem)
        chosen, rejected = (worse, better) if rng.random() < noise else (better, worse)
        yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _prompts(questions: Iterator[tuple[str, str, str]], count: int) -> Iterator[Row]:
    for prompt, _, _ in islice(questions, count):
        yield {"prompt": prompt}


def _write_tokenizer(folder: Path, corpus: list[str]) -> None:
    """Writes a byte-level BPE tokenizer, lossless for any text; ``AutoTokenizer.from_pretrained(folder)`` loads it."""
    special = {"pad_token": "<|pad|>", "eos_token": "<|end|>"}
    roles = ["<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=[special["pad_token"], *roles, special["eos_token"]],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    # All versions of transformers since 4.57 read these keys alike; the output of save_pretrained differs between them.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "additional_special_tokens": roles,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write(folder: Path = HERE) -> None:
    """Writes all data files and ``tokenizer/`` into ``folder``; the bytes are always the same."""
    rng = Random(SEED)
    questions = _questions(rng)
    files = {
        "demonstrations": list(_demonstrations(rng, questions, 3000)),
        "preferences": list(_preferences(rng, questions, 2400, LABEL_NOISE)),
        "preferences_held_out": list(_preferences(rng, questions, 400, 0.0)),
        "prompts": list(_prompts(questions, 1000)),
        "prompts_held_out": list(_prompts(questions, 256)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = [json.dumps(row, separators=(",", ":")) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    _write_tokenizer(folder / "tokenizer", [text for row in files["demonstrations"] for text in row.values()])


if __name__ == "__main__":
    write()
