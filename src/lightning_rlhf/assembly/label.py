"""Opens the page on which people choose between answers."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lightning_rlhf.assembly.serve_reward import listen
from lightning_rlhf.errors import UserError, raise_problems, require

_MOST = 4


def label(
    model_dir: str | None,
    a: str | None,
    b: str | None,
    run: str | None,
    prompts: str | None,
    pairs: str | None,
    out: str,
    num_samples: int,
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
        num_samples: Number of answers to each prompt, unless they come from two models.
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
    one_model = "a" not in models and pairs is None
    raise_problems(
        [f"num_samples={num_samples}: must be from 2 to {_MOST}"] * (not 2 <= num_samples <= _MOST)
        + [f"{name}={share}: must be from 0 to 1" for name, share in _shares(shared, repeats) if not 0 <= share <= 1]
        + ["temperature=0: all samples of one model would be equal"] * (one_model and temperature == 0)
        + [f"{name}={value}: must be positive" for name, value in _sizes(ahead, max_prompt_length) if value < 1]
    )
    for module in ("fastapi", "uvicorn", "markdown_it", "nh3", "pygments"):
        require(module, "web", "label")
    from lightning_rlhf.web.access import check_access

    check_access(host, password)
    # Opens the port and the file before models are loaded, which may take minutes.
    listener = listen(host, port)
    import uvicorn

    from lightning_rlhf.assembly.label_summary import next_steps, summary
    from lightning_rlhf.assembly.library_messages import silence_libraries
    from lightning_rlhf.console import print_messages
    from lightning_rlhf.data.formats import read_records
    from lightning_rlhf.web.label.app import make_app
    from lightning_rlhf.web.label.book import Book
    from lightning_rlhf.web.label.desk import Desk
    from lightning_rlhf.web.label.items import items_of_pairs
    from lightning_rlhf.web.label.supply import Supply

    silence_libraries()
    print_messages()
    book, supply = Book(Path(out).expanduser()), Supply("The model is writing the next answers.")
    desk = Desk(book, shared=shared, repeats=repeats, seed=seed, to_come=supply.to_come)
    if pairs is not None:
        for item in items_of_pairs(read_records(pairs, "pair").rows):
            desk.add(item, keep=False)
    else:
        from lightning_rlhf.assembly.label_writers import of_models, of_run
        from lightning_rlhf.rollout.sampling import Sampling
        from lightning_rlhf.web.label.sampling import Sampler

        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        assert prompts is not None
        records = read_records(prompts, "prompt").rows
        print(f"loading {', '.join(models.values()) or run}", flush=True)
        sampler = Sampler(
            of_run(run, num_samples, dtype, template, book.out.with_suffix(".model"))
            if run is not None
            else of_models(models, num_samples if one_model else 1, dtype, template),
            records,
            origin=f"{run or models} {num_samples}",
            sampling=sampling,
            max_prompt_length=max_prompt_length,
            seed=seed,
            is_known=book.items.__contains__,
            stop=supply.stop,
        )
        supply.start(sampler.items(), desk.add, lambda: desk.num_open() >= ahead, sampler.remaining)
    app = make_app(
        desk, supply, host=host, password=password, default_person="" if password else os.environ.get("USER", "")
    )
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2))
    print(
        f"labelling at http://{host}:{listener.getsockname()[1]}; {summary(book)}; Ctrl-C stops the server", flush=True
    )
    try:
        # The server shuts down by itself, and then raises the KeyboardInterrupt again.
        with suppress(KeyboardInterrupt):
            server.run([listener])
    finally:
        supply.end()
        book.close()
    print("\n".join(["stopped; " + summary(book), *next_steps(book)]))


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


def _shares(shared: float, repeats: float) -> list[tuple[str, float]]:
    return [("shared", shared), ("repeats", repeats)]


def _sizes(ahead: int, max_prompt_length: int) -> list[tuple[str, int]]:
    return [("ahead", ahead), ("max_prompt_length", max_prompt_length)]
