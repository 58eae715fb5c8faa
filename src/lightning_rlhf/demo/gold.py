"""The gold rule of the demo: how content a person would be with an answer of the household help desk.

No trainer reads this rule. The preference pairs carry it, and an evaluation may ask it what was really learnt.

An answer is held against its prompt by four criteria, each on text alone, without regard to case:

* ``thing``: of ``THINGS`` it names exactly those that the prompt names (a plural counts as the thing).
* ``step``: it advises steps, and for exactly the problems that the prompt reports. A prompt reports a problem by one
  of the problem's ``signs``; a step for it is ``"<verb> the <part>"`` of one of its ``verbs`` and one of its ``parts``.
* ``manner``: it says something, and none of the ``RUDE`` phrases.
* ``ending``: it is finished: 6 to 40 words, the last of which ends with ``.``, ``!`` or ``?``, and no sentence twice.

The score is the share of criteria met: 1.0 only if all four are, 0.0 for an empty answer.
"""

import re
from typing import NamedTuple

CRITERIA = ("thing", "step", "manner", "ending")

THINGS = (
    "kettle",
    "toaster",
    "oven",
    "fridge",
    "dishwasher",
    "washer",
    "heater",
    "lamp",
    "printer",
    "laptop",
    "shower",
    "door",
    "window",
    "sofa",
)


class Problem(NamedTuple):
    """How prompts report a problem, and the verbs and parts that make a step against it."""

    signs: tuple[str, ...]
    verbs: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """Every step that fits: each verb with each part."""
        return tuple(f"{verb} the {part}" for verb in self.verbs for part in self.parts)


PROBLEMS = {
    "leak": Problem(("leaks", "loses water", "drips on the floor"), ("tighten", "replace"), ("seal", "gasket")),
    "power": Problem(("does not switch on", "has no power", "stays off"), ("check", "test"), ("plug", "fuse")),
    "noise": Problem(("makes a loud noise", "rattles", "hums too loudly"), ("clean", "adjust"), ("belt", "motor")),
    "smell": Problem(("smells bad", "has a bad smell", "stinks"), ("rinse", "empty"), ("filter", "tray")),
    "jam": Problem(("is stuck", "does not open", "jams"), ("oil", "loosen"), ("hinge", "latch")),
    "stain": Problem(("has a stain", "looks dirty", "is full of spots"), ("scrub", "brush"), ("spot", "mark")),
}

RUDE = (
    "not sorry",
    "you ruined",
    "stop asking",
    "your own fault",
    "do not bother us",
    "you should know",
    "too busy",
    "only you",
    "do not write",
    "do not care",
    "not here for you",
    "never hear",
    "leave us alone",
    "surely fail",
    "nobody wants",
)


_PROBLEM_OF_SIGN = {sign: name for name, problem in PROBLEMS.items() for sign in problem.signs}
_PROBLEM_OF_STEP = {step: name for name, problem in PROBLEMS.items() for step in problem.steps}
_THING = re.compile(rf"\b({'|'.join(THINGS)})(?:e?s)?\b")
_SIGN = re.compile(rf"\b({'|'.join(_PROBLEM_OF_SIGN)})\b")
_STEP = re.compile(r"(?=\b(\w+ the \w+))")  # a lookahead, so that steps may overlap
_RUDE = re.compile(rf"\b({'|'.join(RUDE)})\b")


def things(text: str) -> set[str]:
    """The ``THINGS`` that ``text`` names."""
    return set(_THING.findall(text.lower()))


def reported(prompt: str) -> set[str]:
    """The ``PROBLEMS`` that ``prompt`` reports."""
    return {_PROBLEM_OF_SIGN[sign] for sign in _SIGN.findall(prompt.lower())}


def treated(response: str) -> set[str]:
    """The ``PROBLEMS`` against which ``response`` advises a step."""
    return {_PROBLEM_OF_STEP[words] for words in _STEP.findall(response.lower()) if words in _PROBLEM_OF_STEP}


def _is_finished(response: str) -> bool:
    text = response.strip()
    sentences = [sentence.strip() for sentence in re.split(r"[.!?]+", text.lower()) if sentence.strip()]
    return 6 <= len(text.split()) <= 40 and text[-1] in ".!?" and len(set(sentences)) == len(sentences)


def faults(prompt: str, response: str) -> tuple[str, ...]:
    """The ``CRITERIA`` that ``response`` fails as an answer to ``prompt``, in their order; empty means fully good."""
    named, problems = things(response), treated(response)
    met = {
        "thing": bool(named) and named == things(prompt),
        "step": bool(problems) and problems == reported(prompt),
        "manner": bool(response.strip()) and not _RUDE.search(response.lower()),
        "ending": _is_finished(response),
    }
    return tuple(criterion for criterion in CRITERIA if not met[criterion])


def gold(prompts: list[str], responses: list[str]) -> list[float]:
    """Score each response to its prompt by the gold rule: the share of ``CRITERIA`` that it meets.

    Args:
        prompts: What the person wrote, without chat markup.
        responses: One answer for each prompt, without chat markup.

    Returns:
        One score in [0, 1] for each pair; 1.0 is an answer with which the person would be content.

    Raises:
        ValueError: The two lists differ in length.
    """
    pairs = zip(prompts, responses, strict=True)
    return [1 - len(faults(prompt, response)) / len(CRITERIA) for prompt, response in pairs]
