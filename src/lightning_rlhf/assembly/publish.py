"""Exports a checkpoint, and uploads an export to the Hugging Face hub if that is asked for."""

import shlex
from pathlib import Path

from lightning_rlhf.errors import UserError, raise_problems

# Weights of an earlier upload in more files would be read together with the new ones.
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]
# The record of the command names folders of this machine.
_NOT_UPLOADED = ["result.json"]


def publish(
    checkpoint: str | None,
    model_dir: str | None,
    output_dir: str | None,
    dtype: str | None,
    trust_remote_code: bool,
    push_to_hub: str | None,
    private: bool,
) -> list[str]:
    """Exports a checkpoint, or takes an export that exists, and uploads it.

    The hub is asked who the user is before the export, which may take minutes.

    Args:
        checkpoint: File or folder of a checkpoint, as `export` takes it.
        model_dir: Folder of an export to upload as it is, instead of a checkpoint.
        output_dir: Folder in which the model is written, as `export` takes it.
        dtype: The dtype of the written weights, as `export` takes it.
        trust_remote_code: As `export` takes it.
        push_to_hub: Name of the repository on the hub; None uploads nothing.
        private: Whether a repository that this call creates is private.

    Returns:
        The lines that say where the model is now.

    Raises:
        UserError: If the settings contradict each other, there is no model, or the hub refuses it.
    """
    raise_problems(_problems(checkpoint, model_dir, output_dir, dtype, push_to_hub))
    if push_to_hub is not None:
        _check_user(push_to_hub)
    if model_dir is not None:
        folder = Path(model_dir).expanduser()
    else:
        from lightning_rlhf.assembly.export import export

        folder = export(str(checkpoint), output_dir, dtype, trust_remote_code)
    lines = [f"model in {folder}"]
    if push_to_hub is not None:
        lines.append(f"model at {_push(folder, push_to_hub, private)}")
        lines += _advice(folder)
    return lines


def _problems(
    checkpoint: str | None, model_dir: str | None, output_dir: str | None, dtype: str | None, push_to_hub: str | None
) -> list[str]:
    if (checkpoint is None) == (model_dir is None):
        given = "neither is given" if checkpoint is None else "both are given"
        return [f"checkpoint, model_dir: {given}; give the checkpoint to export, or the export to push"]
    if model_dir is None:
        return []
    problems = [
        f"{name}={value}: the export in model_dir is pushed as it is; leave out {name}, or give a checkpoint"
        for name, value in (("output_dir", output_dir), ("dtype", dtype))
        if value is not None
    ]
    if push_to_hub is None:
        problems.append(f"model_dir={model_dir}: is an export already; give push_to_hub=NAME to upload it")
    if not (Path(model_dir).expanduser() / "README.md").is_file():
        problems.append(
            f"model_dir={model_dir}: is no export, which has a README.md; give model/ in the folder of a run"
        )
    return problems


def _check_user(name: str) -> None:
    """Checks that the name is possible, and that the hub knows the user."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        HfApi().whoami()
    except HFValidationError as error:
        raise UserError(f"push_to_hub={name}: is no name of a repository: {error}") from error
    except (OSError, HTTPError) as error:
        raise UserError(
            f"push_to_hub={name}: the hub does not know you ({_reason(error)}); run hf auth login, or set HF_TOKEN "
            "to a token that may write, and HF_HUB_OFFLINE=0"
        ) from error


def _push(folder: Path, name: str, private: bool) -> str:
    """Uploads a folder in one commit, and returns the address of the repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi()
    try:
        repository = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            commit_message="Upload a model from lightning-rlhf",
            ignore_patterns=_NOT_UPLOADED,
            delete_patterns=_REPLACED,
        )
    except (OSError, HTTPError, ValueError) as error:
        again = shlex.join(["lightning-rlhf", "export", f"model_dir={folder}", f"push_to_hub={name}"])
        raise UserError(
            f"push_to_hub={name}: the hub has not taken the model ({_reason(error)}); it is in {folder}, and this "
            f"tries it again: {again}"
        ) from error
    return str(repository)


def _advice(folder: Path) -> list[str]:
    from huggingface_hub import ModelCard

    if ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.license:
        return []
    return [f"the model has no licence yet: fill in license in {folder / 'README.md'}, and push again"]


def _reason(error: Exception) -> str:
    """What the hub has answered, or else the first line of the error."""
    return getattr(error, "server_message", None) or next(iter(str(error).splitlines()), type(error).__name__)
