"""Serves a trained reward model over HTTP, for `reward=http` and for everybody else."""

import socket
from contextlib import suppress

from lightning_rlhf.errors import UserError, require


def serve(model_dir: str, host: str, port: int, batch_size: int, dtype: str, template: str | None) -> None:
    """Serves until it is stopped by Ctrl-C.

    Args:
        model_dir: Folder of an exported reward model.
        host: Address to listen at; 0.0.0.0 lets other machines in.
        port: Port to listen at; 0 takes a free one.
        batch_size: Answers that go through the model at a time.
        dtype: Of the weights.
        template: Chat template, as `load_reward` takes it.

    Raises:
        UserError: If the folder is not a trained reward model, the port cannot be had, or a batch would be empty.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: must be positive")
    require("fastapi", "web", "serve-reward")
    require("uvicorn", "web", "serve-reward")
    # Before the model, which may take minutes to load.
    listener = listen(host, port)
    import torch
    import uvicorn

    from lightning_rlhf.assembly.library_messages import silence_libraries
    from lightning_rlhf.rewards.build import load_reward
    from lightning_rlhf.rewards.net import TextNetReward
    from lightning_rlhf.rewards.server import make_app

    silence_libraries()
    net, renderer = load_reward(model_dir, dtype, template, setting="model_dir")
    net.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    app = make_app(TextNetReward(net, renderer, renderer.stop_ids), model_dir, batch_size)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    print(f"serving {model_dir} at http://{host}:{listener.getsockname()[1]}/score; Ctrl-C stops it", flush=True)
    # The server ends by itself, and then raises what it was ended by.
    with suppress(KeyboardInterrupt):
        server.run([listener])
    print("stopped")


def listen(host: str, port: int) -> socket.socket:
    """Opens a port; who connects already waits until there is an answer.

    Raises:
        UserError: If it is in use, or cannot be had.
    """
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port={port}: cannot listen at host={host}: {error}; choose another port or host") from error
