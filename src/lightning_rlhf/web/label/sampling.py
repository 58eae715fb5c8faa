"""Lets models answer prompts, so that people can compare the answers."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event

from lightning_rlhf.data.formats import Record
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.engine import Request, RolloutEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.texts import decoder
from lightning_rlhf.seeding import SAMPLING, RandomKey
from lightning_rlhf.web.label.items import Answer, Item, digest
from lightning_rlhf.web.label.supply import Stopped

log = logging.getLogger(__name__)

# Samples can be empty or equal, which cannot be compared; they are drawn again this many times.
_ATTEMPTS = 4
# The first prompts are answered in small batches, because somebody is waiting for them.
_BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Writer:
    """A model that answers prompts.

    Attributes:
        engine: Draws responses.
        renderer: Turns prompts into tokens, and responses into texts.
        name: Where the model comes from, for the file of labels.
    """

    engine: RolloutEngine
    renderer: Renderer
    name: str


class Sampler:
    """Makes items from prompts: each has an answer of every writer.

    Attributes:
        left_out: Why prompts were left out, with the number of prompts.
    """

    def __init__(
        self,
        writers: Callable[[], Sequence[Writer]],
        prompts: Sequence[Record],
        *,
        origin: str,
        sampling: Sampling,
        max_prompt_length: int,
        seed: int,
        is_known: Callable[[str], bool],
        stop: Event,
    ) -> None:
        """Stores what is asked of whom.

        Args:
            writers: Returns the models that answer, one for each answer of an item; a model may be there twice. The
                function is called before every batch of prompts, so a model may be replaced by a newer one.
            prompts: The prompts. Equal prompts are one item.
            origin: Describes the models, so that other models make other items of the same prompts.
            sampling: Settings of the sampling distribution.
            max_prompt_length: Longer prompts are left out; in tokens.
            seed: Seed of the samples.
            is_known: Whether an item exists already, by its id.
            stop: Ends the sampling when it is set.
        """
        self._writers, self._sampling, self._seed, self._stop = writers, sampling, seed, stop
        self._max_prompt_length = max_prompt_length
        named = {digest(origin, prompt.prompt, prompt.tools): prompt for prompt in prompts}
        self._open = {name: prompt for name, prompt in named.items() if not is_known(name)}
        # A prompt has the same random numbers whichever prompts are known already.
        self._numbers = {name: number for number, name in enumerate(named)}
        self._why: dict[str, str] = {}
        self.left_out: Counter[str] = Counter()

    def remaining(self) -> int:
        """Counts the prompts that have not been answered yet."""
        return len(self._open)

    def items(self) -> Iterator[Item]:
        """Yields an item for each prompt, in batches, and tells at the end which prompts were left out.

        Raises:
            Stopped: If `stop` has been set.
        """
        sizes = iter(_BATCHES)
        while self._open:
            names = list(self._open)[: next(sizes, _BATCHES[-1])]
            writers = self._writers()
            answers = self._answered(names, writers)
            for name in names:
                prompt = self._open.pop(name)
                if len(answers[name]) == len(writers):
                    ordered = tuple(answers[name][slot] for slot in range(len(writers)))
                    yield Item(name, prompt.prompt, ordered, prompt.source, prompt.tools)
                else:
                    self.left_out[self._why.pop(name, "all answers were empty or equal")] += 1
        if self.left_out:
            causes = "; ".join(f"{why}: {count}" for why, count in self.left_out.items())
            log.warning("prompts that were left out: %s", causes)

    def _answered(self, names: Sequence[str], writers: Sequence[Writer]) -> dict[str, dict[int, Answer]]:
        """Draws answers until every prompt has a different one from each writer, or the attempts are used up."""
        answers: dict[str, dict[int, Answer]] = {name: {} for name in names}
        for attempt in range(_ATTEMPTS):
            missing = [(n, slot) for n in names for slot in range(len(writers)) if slot not in answers[n]]
            for writer in dict.fromkeys(id(writer) for writer in writers):
                own = [(name, slot) for name, slot in missing if id(writers[slot]) == writer]
                if own:
                    self._draw(own, writers[own[0][1]], attempt, answers)
        return answers

    def _draw(
        self, places: Sequence[tuple[str, int]], writer: Writer, attempt: int, answers: dict[str, dict[int, Answer]]
    ) -> None:
        """Draws one response for each place from one writer, and keeps those that differ from the others."""
        rendered = writer.renderer.prompts(
            [self._open[name].prompt for name, _ in places], [self._open[name].tools for name, _ in places]
        )
        fitting = []
        for (name, slot), ids in zip(places, rendered, strict=True):
            if isinstance(ids, UserError):
                self._why[name] = str(ids)
            elif len(ids) > self._max_prompt_length:
                self._why[name] = f"longer than {self._max_prompt_length} tokens"
            else:
                fitting.append((name, slot, ids))
        requests = [
            Request(ids, RandomKey(self._seed, (SAMPLING, self._numbers[name], attempt), slot))
            for name, slot, ids in fitting
        ]
        stops = writer.renderer.stop_ids
        completions = writer.engine.iterate(requests, self._sampling, stop_ids=stops, decode=decoder(writer.renderer))
        drawn: dict[int, Answer] = {}
        for completion in completions:
            if self._stop.is_set():
                raise Stopped
            text = writer.renderer.decode(completion.ids)
            drawn[completion.request] = Answer(text, writer.name, completion.finish_reason == "stop")
        # They are taken in the order of the requests, because completions arrive in an order that may vary.
        for number, (name, slot, _) in enumerate(fitting):
            texts = {answer.text.strip() for answer in answers[name].values()}
            if drawn[number].text.strip() not in {"", *texts}:
                answers[name][slot] = drawn[number]
