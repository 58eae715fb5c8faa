"""Chats with a trained model, as `lightning-rlhf chat` does."""

from pathlib import Path

import torch

from lightning_rlhf.assembly.chat_settings import ChatSettings
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.serving import listen, serve_app
from lightning_rlhf.chat.conversation import Conversation, Score, fresh_seed
from lightning_rlhf.chat.terminal import talk
from lightning_rlhf.console import console
from lightning_rlhf.data.messages import Message
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.rewards.build import load_reward
from lightning_rlhf.rewards.net import TextNetReward
from lightning_rlhf.rollout.speaker import load_speaker


def chat(settings: ChatSettings) -> None:
    """Chats until the user ends it.

    Args:
        settings: Which models talk, and how.

    Raises:
        UserError: If a folder does not hold the model that it should, or the page cannot be served.
    """
    silence_libraries()
    if settings.chat.web:
        _page(settings)
        return
    console.show(f"loading {settings.model_dir}", "dim")
    speaker = load_speaker(settings.model_dir, "model_dir", dtype=settings.dtype, template=settings.template)
    seed = fresh_seed() if settings.seed is None else settings.seed
    talk(Conversation(speaker, settings.sampling, seed, settings.system or ""), _score(settings))


def _page(settings: ChatSettings) -> None:
    for module in ("fastapi", "uvicorn", "markdown_it", "nh3", "pygments"):
        require(module, "web", "chat.web=true")
    from lightning_rlhf.web.access import check_access
    from lightning_rlhf.web.chat.app import make_app
    from lightning_rlhf.web.chat.feedback import Feedback

    page = settings.chat
    try:
        check_access(page.host, page.password)
    except UserError as error:
        raise UserError(f"chat: {error}") from error
    # Opens the port and the files before models are loaded, which may take minutes.
    listener = listen(page.host, page.port)
    feedback = Feedback(Path(page.feedback_dir).expanduser())
    try:
        folders = {"model_dir": settings.model_dir, "against": settings.against}
        speakers = []
        for name, folder in folders.items():
            if folder is not None:
                console.show(f"loading {folder}", "dim")
                speakers.append(load_speaker(folder, name, dtype=settings.dtype, template=settings.template))
        app = make_app(
            speakers,
            settings.sampling,
            feedback,
            system=settings.system or "",
            score=_score(settings),
            seed=fresh_seed() if settings.seed is None else settings.seed,
            host=page.host,
            password=page.password,
        )
        port = listener.getsockname()[1]
        serve_app(app, listener, f"chat at http://{page.host}:{port}; thumbs go to {feedback.folder}")
    finally:
        feedback.close()
    print("stopped")


def _score(settings: ChatSettings) -> Score | None:
    """The function that scores answers, if there is a reward model."""
    if settings.reward_model is None:
        return None
    net, renderer = load_reward(settings.reward_model, settings.dtype, setting="reward_model")
    net.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    reward = TextNetReward(net, renderer, renderer.stop_ids)

    def score(messages: list[Message], finished: bool) -> float:
        with torch.inference_mode():
            return float(reward.score([messages], [finished]))

    return score
