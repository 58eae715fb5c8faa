"""Opens the page on which people choose between answers."""

import os
from pathlib import Path

from lightning_rlhf.assembly.serving import listen, serve_app
from lightning_rlhf.errors import UserError, raise_problems, require

# Number of answers that a page shows beside each other, and that have a key.
_MOST = 4


def label(
    model_dir: str | None,
    a: str | None,
    b: str | None,
    run: str | None,
    prompts: str | None,
    pairs: str | None,
    out: str,
    num_samples: int | None,
    shared: float,
    repeats: float,
    host: str,
    port: int,
    password: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    max_prompt_length: int,
    ahead: int,
    dtype: str,
    template: str | None,
    seed: int,
) -> None:
    """Serves the page until Ctrl-C stops the server.

    Args:
        model_dir: Folder or hub name of a model, whose samples are compared with each other.
        a: Folder or hub name of a model, which is compared with `b`.
        b: The other model.
        run: Folder of a run, perhaps of one that goes on training; its newest weights answer.
        prompts: File, folder or hub name of the prompts that are answered.
        pairs: File, folder or hub name of pairs that are labelled again; needs no model.
        out: File of the labels. If it exists, labelling goes on where it stopped.
        num_samples: Number of answers of one model to each prompt; None means two.
        shared: Share of the items that all people are asked about.
        repeats: Share of the questions that are asked a second time.
        host: Address to listen at.
        port: Port to listen at; 0 means any free port.
        password: Password of the page; needed if other machines can reach it.
        max_new_tokens: Length limit of an answer, in tokens.
        temperature: Temperature of the samples.
        top_p: Probability of the tokens that samples are drawn from.
        max_prompt_length: Longer prompts are left out; in tokens.
        ahead: Number of prompts that are answered before people are asked about them.
        dtype: The dtype of the weights.
        template: Chat template, as `Renderer` takes it.
        seed: Seed of the samples, of the order of answers, and of what is shared or repeated.

    Raises:
        UserError: If the settings contradict each other, the port or the file is in use, or a model or the data cannot
            be read.
    """
    models = {name: where for name, where in (("model_dir", model_dir), ("a", a), ("b", b)) if where is not None}
    _check_sources(models, run, prompts, pairs)
    samples_of_one = "a" not in models and pairs is None
    raise_problems(
        _wrong_number(num_samples, samples_of_one)
        + [f"shared={shared}: must be from 0 to 1"] * (not 0 <= shared <= 1)
        + [f"repeats={repeats}: must be from 0 to 1"] * (not 0 <= repeats <= 1)
        + ["temperature=0: all samples of one model would be equal"] * (samples_of_one and temperature == 0)
        + [f"ahead={ahead}: must be positive"] * (ahead < 1)
        + [f"seed={seed}: must not be negative"] * (seed < 0)
        + [f"max_prompt_length={max_prompt_length}: must be positive"] * (max_prompt_length < 1)
    )
    for module in ("fastapi", "uvicorn", "markdown_it", "nh3", "pygments", "statsmodels"):
        require(module, "web", "label")
    from lightning_rlhf.assembly.label_summary import next_steps, summary
    from lightning_rlhf.assembly.library_messages import silence_libraries
    from lightning_rlhf.console import print_messages
    from lightning_rlhf.data.formats import read_records
    from lightning_rlhf.rollout.sampling import Sampling
    from lightning_rlhf.web.access import check_access
    from lightning_rlhf.web.label.app import make_app
    from lightning_rlhf.web.label.book import Book
    from lightning_rlhf.web.label.desk import Desk
    from lightning_rlhf.web.label.items import items_of_pairs
    from lightning_rlhf.web.label.supply import Supply

    check_access(host, password)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    silence_libraries()
    print_messages()
    # Everything that can fail at once does so before models are loaded, which may take minutes.
    listener = listen(host, port)
    records = read_records(pairs, "pair").rows if pairs is not None else read_records(str(prompts), "prompt").rows
    book, supply = Book(Path(out).expanduser()), Supply("The model is writing the next answers.")
    desk = Desk(book, shared=shared, repeats=repeats, seed=seed, to_come=supply.to_come)
    if pairs is not None:
        for item in items_of_pairs(records):
            desk.add(item, keep=False)
    else:
        from lightning_rlhf.assembly.label_sources import sample_items, writers_of

        print(f"loading {run or ', '.join(models.values())}", flush=True)
        count = (num_samples or 2) if samples_of_one else 1
        writers = writers_of(models, run, count, dtype, template, book.out)
        answering = models if run is None else {"run": run}
        origin = f"{[(setting, _resolved(where)) for setting, where in answering.items()]} {count}"
        sample_items(desk, supply, writers, records, origin, sampling, max_prompt_length=max_prompt_length, ahead=ahead)
    person = os.environ.get("USER", "") if password is None else ""
    app = make_app(desk, supply, host=host, password=password, default_person=person)
    try:
        serve_app(app, listener, f"labelling at http://{host}:{listener.getsockname()[1]}; {summary(book)}")
    finally:
        supply.end()
        book.close()
    print("\n".join(["stopped; " + summary(book), *next_steps(book, pairs)]))


def _wrong_number(num_samples: int | None, samples_of_one: bool) -> list[str]:
    if num_samples is None:
        return []
    if not samples_of_one:
        return [f"num_samples={num_samples}: has no effect with a and b, or with pairs: leave it out"]
    return [f"num_samples={num_samples}: must be from 2 to {_MOST}"] * (not 2 <= num_samples <= _MOST)


def _resolved(where: str) -> str:
    """Names a folder in the same way from wherever the command is started; a hub name stays as it is."""
    folder = Path(where).expanduser()
    return str(folder.resolve()) if folder.is_dir() else where


def _check_sources(models: dict[str, str], run: str | None, prompts: str | None, pairs: str | None) -> None:
    """Checks that there is exactly one source of answers, with prompts if models answer them.

    Raises:
        UserError: If not.
    """
    found = [name for name, value in (("run", run), ("pairs", pairs)) if value is not None]
    sources = "model_dir=DIR, a=DIR b=DIR, run=DIR (each with prompts=FILE), or pairs=FILE"
    if set(models) not in ({"model_dir"}, {"a", "b"}, set()) or bool(models) + len(found) != 1:
        given = ", ".join([*models, *found]) or "nothing"
        raise UserError(f"label needs one source of answers, and was given {given}: set {sources}")
    if (prompts is None) == (pairs is None):
        raise UserError(
            "prompts is not set: name a file of prompts"
            if pairs is None
            else f"prompts={prompts}: pairs={pairs} has its own prompts and answers: set only one of them"
        )
