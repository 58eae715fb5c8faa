"""OpenAssistant: trees of conversations, as messages that name their parents, or as nested replies."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

from lightning_rlhf.data.faults import WrongRow, kind_of
from lightning_rlhf.data.importing.rows import Dropped, Found, Layout, pair, text
from lightning_rlhf.data.messages import Message, Role

_ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}
Node = Mapping[str, Any]


def _openassistant(rows: Iterable[Node]) -> Found:
    """Makes demonstrations, pairs and prompts of the trees.

    A demonstration is the path on which each answer is the best one of its siblings, for each question that was asked.
    Answers that people have ranked make a pair with the next in rank.
    """
    flat: list[Node] = []
    for row in rows:
        # A tree has its first message in `prompt`, and a message has its text in `text`.
        if isinstance(row.get("prompt"), Mapping):
            yield from _tree(row["prompt"], _nested)
        else:
            flat.append(row)
    children: dict[object, list[Node]] = defaultdict(list)
    known = {row.get("message_id") for row in flat}
    for row in flat:
        children[row.get("parent_id")].append(row)
    for row in flat:
        parent = row.get("parent_id")
        if parent is None:
            yield from _tree(row, lambda node: children[node.get("message_id")])
        elif parent not in known:
            yield Dropped("the message that it answers is not among the rows")


def _nested(node: Node) -> list[Node]:
    return list(node.get("replies") or [])


def _tree(root: Node, replies: Callable[[Node], list[Node]]) -> Found:
    """Walks over a tree without recursion, since conversations may be long."""
    waiting: list[tuple[Node, list[Message], bool]] = [(root, [], True)]
    while waiting:
        node, before, best_so_far = waiting.pop()
        reason = _unusable(node)
        if reason:
            yield Dropped(reason)
            continue
        turns: list[Message] = [*before, {"role": _ROLES[node["role"]], "content": text(node, "text")}]
        after = replies(node)
        usable = [one for one in after if _unusable(one) is None]
        best: list[Node] = usable
        if node["role"] == "prompter":
            yield "prompts", {"prompt": turns}
            ranked = _ranked(usable)
            yield from _pairs(turns, ranked)
            best = ranked[:1]
        elif best_so_far and not usable:
            yield "demonstrations", {"messages": turns}
        waiting += [(one, turns, best_so_far and any(one is other for other in best)) for one in reversed(after)]


def _pairs(prompt: list[Message], answers: list[Node]) -> Found:
    ranked = [one for one in answers if isinstance(one.get("rank"), int | float)]
    for better, worse in pairwise(ranked):
        if better["rank"] == worse["rank"]:
            yield Dropped("two answers have the same rank, so they make no pair")
        else:
            yield from pair(prompt, text(better, "text"), text(worse, "text"))


def _ranked(answers: list[Node]) -> list[Node]:
    """The answers, the best first; those without a rank come last."""
    return sorted(answers, key=lambda one: one["rank"] if isinstance(one.get("rank"), int | float) else float("inf"))


def _unusable(node: Node) -> str | None:
    """Why a message cannot be used; None if it can be."""
    if node.get("deleted"):
        return "the message was deleted"
    if node.get("review_result") is False:
        return "reviewers have rejected the message"
    if node.get("role") not in _ROLES:
        return "the message has no known role"
    try:
        return None if text(node, "text") else "the message is empty"
    except WrongRow as error:
        return kind_of(error)


OPENASSISTANT = Layout("openassistant", "OpenAssistant/oasst2", _openassistant)
