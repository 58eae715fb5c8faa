"""Random walks on a directed graph, and a measure of how near a walk comes to the shortest path to the goal.

Source: `examples/randomwalks` of trlx (CarperAI, 2022), after an experiment of the Decision Transformer (Chen et al.,
2021). The random draws are the same, so a seed gives the same graph and the same walks as in trlx.
"""

import string
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import numpy as np

from lightning_rlhf.errors import UserError, raise_problems

NODES = string.ascii_lowercase + string.ascii_uppercase + string.digits
"""The names of nodes, one character each; a graph has at most this number of nodes."""
GOAL = NODES[0]


@dataclass(frozen=True)
class Graph:
    """A directed graph. Walks end at its first node, the goal; every node has an edge to another node.

    The length of a walk is its number of nodes, including start and goal. A walk is written as the names of its nodes.

    Example:
        >>> Graph(seed=1000).shortest["b"]
        3
    """

    seed: int
    """Seed of the edges and of the walks."""
    num_nodes: int = 21
    edge_probability: float = 0.1
    """Probability of each edge between two nodes."""
    max_length: int = 10
    """Walks stop at this length; a walk that reaches it has optimality 0."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UserError: If there is no such graph, or if such graphs are so rare that drawing one would not end. The
                message names all problems.
        """
        problems = [
            f"{name}={value}: must {rule}"
            for name, value, holds, rule in [
                ("seed", self.seed, 0 <= self.seed < 2**32, "lie in [0, 2**32)"),
                ("num_nodes", self.num_nodes, 2 <= self.num_nodes <= len(NODES), f"lie in [2, {len(NODES)}]"),
                ("edge_probability", self.edge_probability, 0 < self.edge_probability <= 1, "lie in (0, 1]"),
                ("max_length", self.max_length, self.max_length > 2, "be at least 3: start, goal, and a step to save"),
            ]
            if not holds
        ]
        if not problems:
            share = (1 - (1 - self.edge_probability) ** (self.num_nodes - 1)) ** self.num_nodes
            if share < 1e-4:
                problems.append(
                    f"edge_probability={self.edge_probability}: only {share:.1g} of all graphs with "
                    f"num_nodes={self.num_nodes} have an edge from every node, too few to find one: raise either"
                )
        raise_problems(problems)

    @cached_property
    def successors(self) -> dict[str, str]:
        """The nodes to which each node has an edge, for all nodes except the goal."""
        successors, _ = self._draw()
        return successors

    @cached_property
    def shortest(self) -> dict[str, int]:
        """The length of the shortest walk to the goal from each node, including the goal itself.

        Nodes whose shortest walk is not below `max_length` are left out, since all walks from them have optimality 0.
        """
        found = {GOAL: 1}
        for length in range(2, self.max_length):
            reached = [
                here
                for here, there in self.successors.items()
                if here not in found and not found.keys().isdisjoint(there)
            ]
            found |= dict.fromkeys(reached, length)
        return found

    @property
    def starts(self) -> list[str]:
        """The nodes to start from: those in `shortest` except the goal.

        Raises:
            UserError: If there is no such node.
        """
        starts = [node for node in self.successors if node in self.shortest]
        if not starts:
            raise UserError(f"seed={self.seed}: no node of {self} reaches the goal: choose another seed")
        return starts

    def walks(self, count: int) -> list[str]:
        """Draws walks from random nodes other than the goal; uniform steps lead to the goal or up to `max_length`."""
        successors, rng = self._draw()
        return [self._walk(successors, rng) for _ in range(count)]

    def optimality(self, walk: str) -> float:
        """Measures how near a walk comes to the shortest walk: (M - L) / (M - L*) with M = `max_length`.

        L is the length of the walk up to the goal, and L* the length of the shortest walk from the same start. L is M
        if the walk does not reach the goal with fewer nodes, or uses an edge that does not exist.

        Args:
            walk: Names of nodes; nodes after the goal are ignored.

        Returns:
            A number in [0, 1]: 1 for a shortest walk, and 0 for every walk from a node that is not in `shortest`.
        """
        way, goal, _ = walk.partition(GOAL)
        length = len(way + goal)
        valid = all(there in self.successors.get(here, "") for here, there in pairwise(way + goal))
        if not goal or not valid or length >= self.max_length:
            return 0.0
        # L* <= L < M, so this is never 0 / 0.
        return (self.max_length - length) / (self.max_length - self.shortest[walk[0]])

    def _draw(self) -> tuple[dict[str, str], np.random.RandomState]:
        """Draws the edges, and returns them with the generator in its state after the draw."""
        rng = np.random.RandomState(self.seed)
        while True:
            edges = rng.rand(self.num_nodes, self.num_nodes) > 1 - self.edge_probability
            np.fill_diagonal(edges, False)
            if edges.any(axis=1).all():
                break
        names = np.array(list(NODES[: self.num_nodes]))
        return {node: "".join(names[row]) for node, row in zip(names[1:].tolist(), edges[1:], strict=True)}, rng

    def _walk(self, successors: dict[str, str], rng: np.random.RandomState) -> str:
        walk = GOAL
        while walk == GOAL:
            walk = NODES[rng.randint(self.num_nodes)]
        while len(walk) < self.max_length and walk[-1] != GOAL:
            choices = successors[walk[-1]]
            walk += choices[rng.randint(len(choices))]
        return walk


@dataclass(frozen=True)
class Optimality:
    """The reward and the metric of the task: `Graph.optimality` of prompt and response together."""

    graph: Graph
    metric_name: ClassVar[str] = "optimality"

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        """Returns one number in [0, 1] for each response."""
        return [self.graph.optimality(prompt + response) for prompt, response in zip(prompts, responses, strict=True)]
