"""``dataset.yaml``: a dataset's own settings, versioned with its rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, field_validator

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.frozen import Frozen
from ftplatform.core.ids import RecipeKey

FILE_NAME = "dataset.yaml"
HELDOUT_SUITE = "heldout"
"""The suite made of the dataset's own test rows."""

Format = Literal["auto", "openai-chat", "prompt-completion", "alpaca", "csv"]


class Columns(Frozen):
    """Which CSV columns become which turn."""

    user: str
    assistant: str
    system: str | None = None
    tags: tuple[str, ...] = ()
    """Columns kept as tags; evaluation reports a slice per value."""


class SplitConfig(Frozen):
    """Shares of rows; what is left is training. A row's share is decided by its own hash, so it never moves."""

    validation: float = Field(0.05, ge=0.0, le=0.5)
    test: float = Field(0.2, ge=0.0, le=0.5)
    test_files: tuple[str, ...] = ()
    """Names of the customer's own test files; when given, no other row is held out for test."""


class PiiConfig(Frozen):
    policy: Literal["replace", "off"] = "replace"
    """``replace`` writes ``<ENTITY>`` in place of what was found."""
    allow: tuple[str, ...] = ()
    """Entities that stay as they are, for example ``PHONE_NUMBER``."""


class RetrainConfig(Frozen):
    on_new_data: bool = True
    every_hours: float | None = Field(None, gt=0)


class DatasetConfig(Frozen):
    """Every field has a default: an upload without a dataset.yaml works."""

    format: Format = "auto"
    columns: Columns | None = None
    system: str | None = None
    """A system turn put in front of every row that has none."""
    split: SplitConfig = SplitConfig()
    max_bad_rows: int = Field(0, ge=0)
    """0 refuses the upload for one bad row; above 0 that many bad rows are dropped, listed and warned about."""
    min_rows: int = Field(10, ge=1)
    pii: PiiConfig = PiiConfig()
    train_with: tuple[str, ...] = ()
    """Recipes (``slug@N``) that train on every new version."""
    suites: tuple[str, ...] = ()
    """Suites beyond the mandatory ones."""
    margins: dict[str, float] = {}
    """Non-inferiority margin per suite as a share of items; the platform's default holds for the others."""
    max_new_tokens: int = Field(32, ge=1, le=4096)
    """Longest answer generated for a held-out row, in tokens."""
    retrain: RetrainConfig = RetrainConfig()

    @field_validator("train_with")
    @classmethod
    def _recipes_exist_in_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            RecipeKey.parse(key)
        return value

    @field_validator("margins")
    @classmethod
    def _margins_are_shares(cls, value: dict[str, float]) -> dict[str, float]:
        for suite, margin in value.items():
            if not 0.0 < margin < 1.0:
                raise ValueError(f"margin of suite {suite!r} is {margin}: accepted is a share between 0 and 1")
        return value


def parse_dataset_config(value: object, where: str = FILE_NAME) -> DatasetConfig:
    """Build the config from parsed YAML.

    Raises:
        InvalidConfig: listing every wrong field at once.
    """
    if value is None:
        return DatasetConfig()
    try:
        return DatasetConfig.model_validate(value)
    except ValidationError as error:
        raise InvalidConfig(f"{where} cannot be used:\n{problems(error)}") from error


def problems(error: ValidationError) -> str:
    """Every problem of a pydantic error, a line each: path, what is wrong, what was found."""
    return "\n".join(
        f"  {'.'.join(map(str, e['loc'])) or '(top level)'}: {e['msg']}; found {e['input']!r}" for e in error.errors()
    )
