"""`lightning-rlhf export push_to_hub=NAME` uploads a model to a hub that answers over HTTP."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, hub
from huggingface_hub import ModelCard
from support import TINY, cold_command, command, keep, run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished SFT run."""
    folder = tmp_path_factory.mktemp("run")
    done = command(folder, *keep(TINY, "sft"), "experiment=none")
    assert done.returncode == 0, done.stderr
    return run_folder(folder)


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as found:
        yield found


def push(server: Hub, folder: Path, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, because the library reads the address when it is imported."""
    told = {"HF_ENDPOINT": server.address, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return cold_command(folder, *words, name="export", **told)


@pytest.mark.slow
def test_an_export_of_a_checkpoint_is_pushed_with_its_card_into_a_private_repository(
    run: Path, server: Hub, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = push(
        server, tmp_path, f"checkpoint={run}/checkpoints/last.ckpt", f"output_dir={out}", "push_to_hub=me/a-model"
    )
    assert done.returncode == 0, done.stderr
    assert f"model at {server.address}/me/a-model" in done.stdout
    assert "no licence yet" in done.stdout
    # The hub has what the folder has, byte for byte, without the record of the command, which names folders.
    local = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    del local["result.json"]
    assert {key.removeprefix("me/a-model/"): data for key, data in server.files.items()} == local
    assert server.private == {"me/a-model": True}
    data = ModelCard(server.files["me/a-model/README.md"].decode()).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert {"lightning-rlhf", "rlhf", "sft"} <= set(data.tags or [])


def test_the_model_of_a_run_is_pushed_as_it_is_and_replaces_older_weights(
    run: Path, server: Hub, tmp_path: Path
) -> None:
    server.private["me/a-model"] = False
    server.files = {f"me/a-model/{name}": b"old" for name in ("model-00001-of-00002.safetensors", "photo.png")}
    done = push(server, tmp_path, f"model_dir={run}/model", "push_to_hub=me/a-model")
    assert done.returncode == 0, done.stderr
    assert server.files["me/a-model/model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    # Weights that the new ones do not replace would be read with them; whatever else the user has put there stays.
    assert "me/a-model/model-00001-of-00002.safetensors" not in server.files
    assert server.files["me/a-model/photo.png"] == b"old"
    assert server.private["me/a-model"] is False


def test_a_hub_that_does_not_know_the_user_is_asked_before_the_export(run: Path, server: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (f"checkpoint={run}/checkpoints/last.ckpt", f"output_dir={out}", "push_to_hub=me/a-model")
    done = push(server, tmp_path, *words, token="hf_wrong")
    assert done.returncode == 2
    assert "error: push_to_hub=me/a-model: the hub does not know you" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_a_hub_that_refuses_the_model_leaves_it_here_with_the_command_that_tries_again(
    run: Path, server: Hub, tmp_path: Path
) -> None:
    server.refuses = "you may not write here"
    done = push(server, tmp_path, f"model_dir={run}/model", "push_to_hub=other/a-model")
    assert done.returncode == 2
    assert "the hub has not taken the model (you may not write here)" in done.stderr
    assert f"lightning-rlhf export model_dir={run}/model push_to_hub=other/a-model" in done.stderr
    assert json.loads((run / "result.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "checkpoint, model_dir: neither is given"),
        (["checkpoint=a", "model_dir=b"], "checkpoint, model_dir: both are given"),
        (["model_dir=b", "dtype=bfloat16"], "dtype=bfloat16: the export in model_dir is pushed as it is"),
        (["model_dir=b"], "model_dir=b: is an export already; give push_to_hub=NAME"),
        (["model_dir=b", "push_to_hub=c"], "model_dir=b: is no export"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    done = command(tmp_path, *words, name="export")
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
