"""Serves a trained reward model over HTTP, for `reward=http` and for any other client."""

from lightning_rlhf.assembly.serving import listen, serve_app
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

    from lightning_rlhf.assembly.library_messages import silence_libraries
    from lightning_rlhf.rewards.build import load_reward
    from lightning_rlhf.rewards.net import TextNetReward
    from lightning_rlhf.rewards.server import make_app
    from lightning_rlhf.web.access import refuse_foreign
    from lightning_rlhf.web.mistakes import answer_in_words

    silence_libraries()
    net, renderer = load_reward(model_dir, dtype, template, setting="model_dir")
    net.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    app = make_app(TextNetReward(net, renderer, renderer.stop_ids), model_dir, batch_size)
    refuse_foreign(app, host)
    answer_in_words(app)
    serve_app(app, listener, f"serving {model_dir} at http://{host}:{listener.getsockname()[1]}/score")
    print("stopped")
