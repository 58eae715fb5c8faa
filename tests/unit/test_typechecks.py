"""The types of settings are those of the annotations, as far as a running program knows them."""

from typing import TYPE_CHECKING, Any, Union

from lightning_rlhf.data import PreferenceDataModule, PromptDataModule, SFTDataModule
from lightning_rlhf.typechecks import annotations

if TYPE_CHECKING:
    from somewhere import Unknown  # type: ignore[import-not-found]


def function(size: int, rows: Union[str, "Unknown"], other: "Unknown") -> None:
    """Takes a type that is imported for type checkers only."""


def test_a_type_that_only_type_checkers_know_hides_no_other_type() -> None:
    known = annotations(function)
    assert (known["size"], known["other"]) == (int, Any)


def test_the_settings_of_data_modules_have_types() -> None:
    for module in (SFTDataModule, PreferenceDataModule, PromptDataModule):
        assert annotations(module)["val_fraction"] is float
