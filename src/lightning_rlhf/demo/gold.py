"""The gold rule of the demo: how content a person would be with an answer of the household help desk.

No trainer reads this rule. The preference pairs reflect it, and an evaluation measures with it what was really learnt.

The rule compares an answer with its prompt by four criteria, which look at the text alone and ignore case:

* ``thing``: the answer names exactly those of ``THINGS`` that the prompt names (a plural counts as the thing).
* ``step``: the answer advises steps for exactly the problems that the prompt reports, and at least one step. A prompt
  reports a problem by one of the problem's ``signs``. A step is ``"<verb> the <part>"`` with one of the problem's
  ``verbs`` and one of its ``parts``.
* ``manner``: the answer is not empty, and contains none of the ``RUDE`` phrases.
* ``ending``: the answer is finished: it has 6 to 40 words, ends with ``.``, ``!`` or ``?``, and repeats no sentence.

The score is the share of criteria that are met: 1.0 if all four are met, and 0.0 for an empty answer.
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
    """The signs by which prompts report a problem, and the verbs and parts of the steps that solve it."""

    signs: tuple[str, ...]
    verbs: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """All steps that solve the problem: each verb with each part."""
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
    """Returns the ``THINGS`` that ``text`` names."""
    return set(_THING.findall(text.lower()))


def reported(prompt: str) -> set[str]:
    """Returns the ``PROBLEMS`` that ``prompt`` reports."""
    return {_PROBLEM_OF_SIGN[sign] for sign in _SIGN.findall(prompt.lower())}


def treated(response: str) -> set[str]:
    """Returns the ``PROBLEMS`` against which ``response`` advises a step."""
    return {_PROBLEM_OF_STEP[words] for words in _STEP.findall(response.lower()) if words in _PROBLEM_OF_STEP}


def _is_finished(response: str) -> bool:
    text = response.strip()
    sentences = [sentence.strip() for sentence in re.split(r"[.!?]+", text.lower()) if sentence.strip()]
    return 6 <= len(text.split()) <= 40 and text[-1] in ".!?" and len(set(sentences)) == len(sentences)


def faults(prompt: str, response: str) -> tuple[str, ...]:
    """Returns the ``CRITERIA`` that ``response`` does not meet as an answer to ``prompt``, in their order."""
    named, problems = things(response), treated(response)
    met = {
        "thing": bool(named) and named == things(prompt),
        "step": bool(problems) and problems == reported(prompt),
        "manner": bool(response.strip()) and not _RUDE.search(response.lower()),
        "ending": _is_finished(response),
    }
    return tuple(criterion for criterion in CRITERIA if not met[criterion])


def gold(prompts: list[str], responses: list[str]) -> list[float]:
    """Scores each response to its prompt by the gold rule: the share of ``CRITERIA`` that it meets.

    Args:
        prompts: Texts of the person, without chat markup.
        responses: One answer for each prompt, without chat markup.

    Returns:
        One score in [0, 1] for each pair; 1.0 is an answer with which the person would be content.

    Raises:
        ValueError: If the two lists differ in length.
    """
    pairs = zip(prompts, responses, strict=True)
    return [1 - len(faults(prompt, response)) / len(CRITERIA) for prompt, response in pairs]
