"""Makes a data set by letting two roles of a chat model talk to each other."""

import time
from pathlib import Path
from typing import Any

from lightning_rlhf.assembly.chat_model import client_with_budget
from lightning_rlhf.console import console
from lightning_rlhf.saving import write_json
from lightning_rlhf.synthesis.data_files import Filter, Limits
from lightning_rlhf.synthesis.generate import Plan, generate
from lightning_rlhf.synthesis.progress import cost
from lightning_rlhf.synthesis.templates import read_templates


def generate_dataset(
    llm: dict[str, Any],
    output_dir: str,
    num_conversations: int,
    num_exchanges: int,
    memory: int,
    templates: str | None,
    near_duplicates: float | None,
    min_answer_words: int,
    max_answer_words: int | None,
    max_usd: float | None,
    max_tokens: int | None,
) -> Path:
    """Makes conversations, and the files that the stages read.

    Args:
        llm: The node of the group `llm`.
        output_dir: Folder of the files; if it contains conversations already, they count.
        num_conversations: Number of conversations that the folder contains in the end.
        num_exchanges: Number of exchanges of a conversation.
        memory: Number of exchanges that a role remembers.
        templates: File with templates, as `read_templates` takes it.
        near_duplicates: Similarity from which on a conversation counts as a copy; None leaves out equal ones only.
        min_answer_words: Lower limit of an answer.
        max_answer_words: Upper limit of an answer; None for none.
        max_usd: What all requests may cost, in US dollars.
        max_tokens: What all requests may use, in tokens.

    Returns:
        The folder, which also contains `result.json`.

    Raises:
        UserError: If a setting is wrong, the model fails for good, or the folder contains other conversations.
    """
    start = time.perf_counter()
    texts = read_templates(templates)
    filters = Filter(texts, Limits(min_answer_words, max_answer_words), near_duplicates)
    folder = Path(output_dir).expanduser()
    client = client_with_budget(llm, max_usd, max_tokens)
    plan = Plan(client.name, texts, num_exchanges, memory)
    made = generate(client, plan, folder, num_conversations, filters)
    for reason, count in made.dropped.items():
        console.say(f"{reason}: {count:,}")
    for name, count in made.rows.items():
        console.say(f"{folder / name}.jsonl: {count:,} rows")
    if made.stopped is not None:
        console.say(
            f"stopped after {made.conversations:,} of {num_conversations:,} conversations: {made.stopped}; the same "
            "command with a larger budget goes on"
        )
    console.say(f"{made.conversations:,} conversations with {cost(client.budget)}")
    metrics = {"conversations": made.conversations, "tokens": client.budget.used.tokens, "usd": client.budget.usd}
    record = {
        "stage": "generate-dataset",
        "status": "finished" if made.stopped is None else "stopped",
        "metrics": metrics,
        "rows": made.rows,
        "dropped": made.dropped,
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(folder / "result.json", record)
    return folder
