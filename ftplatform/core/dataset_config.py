"""``dataset.yaml``: a dataset's own settings, versioned with its rows."""

from __future__ import annotations

import reprlib
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.frozen import Frozen
from ftplatform.core.ids import RecipeKey

FILE_NAME = "dataset.yaml"
HELDOUT_SUITE = "heldout"
"""The suite made of the dataset's own test rows."""

Format = Literal[
    "auto",
    "openai-chat",
    "openai-preference",
    "openai-reinforcement",
    "prompt-completion",
    "prompt",
    "preference",
    "kto",
    "alpaca",
    "sharegpt",
    "text",
    "csv",
]


class Columns(Frozen):
    """Which columns of a table become what; a JSON object's keys are columns too."""

    user: str | None = None
    assistant: str | None = None
    system: str | None = None
    text: str | None = None
    """A document for continued pre-training."""
    chosen: str | None = None
    rejected: str | None = None
    label: str | None = None
    """Whether ``assistant`` is a good answer: true/false, 1/0, yes/no (KTO)."""
    tags: tuple[str, ...] = ()
    """Columns kept as tags; evaluation reports a slice per value, and a recipe can mix by one."""


class SplitConfig(Frozen):
    """Shares of rows; what is left is training. A row's share is decided by its own hash, so it never moves."""

    validation: float = Field(0.05, ge=0.0, le=0.5)
    test: float = Field(0.2, ge=0.0, le=0.5)
    validation_files: tuple[str, ...] = ()
    """Names of the customer's own validation files; when given, no other row is held out for validation."""
    test_files: tuple[str, ...] = ()
    """Names of the customer's own test files; when given, no other row is held out for test."""
    group_by: str | None = None
    """A tag: all rows with the same value (a customer, a document) stand on the same side."""


PiiAction = Literal["replace", "mask", "pseudonym", "drop_row", "allow"]


class PiiConfig(Frozen):
    policy: Literal["replace", "mask", "pseudonym", "drop_row", "off"] = "replace"
    """``replace`` writes ``<ENTITY>``, ``mask`` stars, ``pseudonym`` the same invented value for the same one found,
    ``drop_row`` leaves the row out.
    """
    entities: dict[str, PiiAction] = {}
    """What to do with one entity, where it differs from ``policy``."""
    allow: tuple[str, ...] = ()
    """Entities that stay as they are, for example ``PHONE_NUMBER``."""
    ner_model: str | None = None
    """Folder of a transformers token classifier for names and places; on the machine that curates."""


class ToxicityConfig(Frozen):
    policy: Literal["off", "flag", "drop", "fail"] = "off"
    """``flag`` tags the row, ``drop`` leaves it out, ``fail`` refuses the version above ``max_rate``."""
    threshold: float = Field(0.8, gt=0.0, le=1.0)
    """Score from which a row counts as toxic."""
    max_rate: float = Field(0.01, ge=0.0, le=1.0)
    """Share of toxic rows above which ``fail`` refuses."""
    model: str = "builtin"
    """``builtin`` (English), ``words`` (only the lists), or the folder of a transformers text classifier."""
    words: dict[str, tuple[str, ...]] = {}
    """Word lists by language code; a row with one of them counts as toxic. ``any`` holds for every language."""


class LanguageConfig(Frozen):
    detect: bool = True
    allow: tuple[str, ...] = ()
    """ISO 639-1 codes; rows in another language are handled by ``others``. Empty allows all."""
    others: Literal["flag", "drop"] = "flag"


class UnicodeConfig(Frozen):
    normalise: Literal["NFC", "NFKC", "off"] = "NFC"
    zero_width: Literal["remove", "keep"] = "remove"
    """Invisible characters; joiners inside scripts that need them stay."""
    bidi: Literal["remove", "keep"] = "remove"
    """Direction overrides, which make text read otherwise than it is stored."""
    digits: Literal["keep", "ascii"] = "keep"


class DuplicatesConfig(Frozen):
    near: Literal["off", "report", "drop"] = "report"
    """What to do with rows nearly the same as an earlier one."""
    threshold: float = Field(0.85, gt=0.0, lt=1.0)
    """Jaccard similarity of word shingles from which two rows are near duplicates."""


class ContaminationConfig(Frozen):
    """Training rows that repeat held-out ones: own validation and test rows, suites, held-out rows of earlier versions."""

    policy: Literal["remove", "refuse"] = "remove"
    """``remove`` leaves the training row out and counts it, ``refuse`` stops the version."""
    ngram: int = Field(13, ge=5, le=50)
    """Words in a row that count as the same passage."""
    threshold: float = Field(0.85, gt=0.0, lt=1.0)
    """Jaccard similarity from which a training row nearly repeats a held-out one."""


class TagRule(Frozen):
    """Tags rows whose text matches."""

    tag: str
    value: str
    pattern: str
    """A regular expression (RE2), searched in the user turns, or in the document."""


class TaggingConfig(Frozen):
    rules: tuple[TagRule, ...] = ()
    """The first rule of a tag that matches sets it; a tag the row brings itself stays."""
    classifier: str | None = None
    """Name of a function that an installed package offers as an entry point of ``ftplatform.tag_classifiers``: called
    with lists of texts, it gives a dict of tags each. Not a path to import: a dataset.yaml must not run code.
    """


class SyntheticConfig(Frozen):
    """``synthetic_rows``: rows a teacher model writes from the dataset's own."""

    url: str
    """An OpenAI-compatible endpoint, with its ``/v1``; one of those that ``FTPLATFORM_TEACHERS`` allows."""
    model: str
    kind: Literal["paraphrase", "generate"] = "paraphrase"
    per_seed: int = Field(1, ge=1, le=20)
    seeds: int = Field(100, ge=1)
    """Training rows drawn as seeds."""
    temperature: float = Field(0.8, ge=0.0, le=2.0)
    max_tokens: int = Field(256, ge=1)
    seed: int = 17
    max_share: float = Field(0.3, gt=0.0, lt=1.0)
    """Largest share of synthetic rows in the training split; more are left out."""


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
    unicode: UnicodeConfig = UnicodeConfig()
    pii: PiiConfig = PiiConfig()
    toxicity: ToxicityConfig = ToxicityConfig()
    language: LanguageConfig = LanguageConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    tagging: TaggingConfig = TaggingConfig()
    expectations: tuple[dict[str, Any], ...] = ()
    """Great Expectations beyond the platform's own: {type, and its arguments} on the columns of the row profile."""
    synthetic: SyntheticConfig | None = None
    train_with: tuple[str, ...] = ()
    """Recipes (``slug@N``) that train on every new version."""
    suites: tuple[str, ...] = ()
    """Suites beyond the mandatory ones."""
    margins: dict[str, float] = {}
    """Non-inferiority margin per suite as a share of items; the platform's default holds for the others."""
    max_new_tokens: int = Field(32, ge=1, le=4096)
    """Longest answer generated for a held-out row, in tokens."""
    target: float | None = Field(None, gt=0.0, le=1.0)
    """Share of held-out rows right that is good enough: where the base reaches it already, the plan warns."""
    check_base: bool = True
    """Whether the base model is asked the held-out rows before a training."""
    few_shot: int = Field(8, ge=0, le=64)
    """Examples of the training split in its prompt, as far as its context holds them; 0 asks it plainly alone."""
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


# A wrong value can be the whole file: a person needs its beginning.
_FOUND = reprlib.Repr()
_FOUND.maxstring = _FOUND.maxother = 200


def problems(error: ValidationError) -> str:
    """Every problem of a pydantic error, a line each: path, what is wrong, what was found."""
    return "\n".join(
        f"  {'.'.join(map(str, e['loc'])) or '(top level)'}: {e['msg']}; found {_FOUND.repr(e['input'])}"
        for e in error.errors()
    )
