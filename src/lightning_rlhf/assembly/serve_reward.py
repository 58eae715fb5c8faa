"""Serves a trained reward model over HTTP, for `reward=http` and for any other client."""

import socket
from contextlib import suppress

from lightning_rlhf.errors import UserError, require


def serve(model_dir: str, host: str, port: int, batch_size: int, dtype: str, template: str | None) -> None:
    """Serves a reward model until Ctrl-C stops the server.

    Args:
        model_dir: Folder of an exported reward model.
        host: Address to listen at; 0.0.0.0 allows other machines to connect.
        port: Port to listen at; 0 means any free port.
        batch_size: Number of answers that the model scores at a time.
        dtype: The dtype of the weights.
        template: Chat template, as `load_reward` takes it.

    Raises:
        UserError: If the folder does not hold a trained reward model, the port is not available, or `batch_size` is not
            positive.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: must be positive")
    require("fastapi", "web", "serve-reward")
    require("uvicorn", "web", "serve-reward")
    # Opens the port before the model is loaded, which may take minutes.
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
    # The server shuts down by itself, and then raises the KeyboardInterrupt again.
    with suppress(KeyboardInterrupt):
        server.run([listener])
    print("stopped")


def listen(host: str, port: int) -> socket.socket:
    """Opens a port. A client that connects before the server runs waits for its answer.

    Raises:
        UserError: If the port is in use or not available.
    """
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port={port}: cannot listen at host={host}: {error}; choose another port or host") from error
