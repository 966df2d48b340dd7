"""Keys: the only place that builds or parses one, and refuses every other form.

Dagster accepts any partition key (a ``|`` inside one breaks a two-dimensional asset for good), the file system accepts ``..``
and MLflow refuses ``/``: so every key is checked here, once, before anything is named after it.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from ftplatform.core.errors import InvalidKey

SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
SLUG_RULE = "1 to 40 characters of a-z, 0-9 and '-', neither first nor last a '-'"
_REVISION = re.compile(r"[0-9a-f]{8}")


def check_slug(value: str, what: str) -> str:
    """Return ``value`` when it is a slug.

    Raises:
        InvalidKey: naming ``what``, the value found and the rule.
    """
    if not SLUG.fullmatch(value):
        raise InvalidKey(f"{what} {value!r} is not a valid name: accepted are {SLUG_RULE}")
    return value


@dataclass(frozen=True, slots=True, order=True)
class DatasetKey:
    """``tenant/name``."""

    tenant: str
    name: str

    def __post_init__(self) -> None:
        check_slug(self.tenant, "tenant")
        check_slug(self.name, "dataset")

    @classmethod
    def parse(cls, text: str) -> DatasetKey:
        tenant, slash, name = text.partition("/")
        if not slash:
            raise InvalidKey(f"dataset key {text!r} has no '/': accepted is tenant/name, for example acme/support")
        return cls(tenant, name)

    @property
    def registered_model(self) -> str:
        """The MLflow registered model of the dataset; slugs hold no dot, so two datasets cannot collide."""
        return f"{self.tenant}.{self.name}"

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class RecipeKey:
    """``slug@N`` with N from 1."""

    slug: str
    number: int

    def __post_init__(self) -> None:
        check_slug(self.slug, "recipe")
        if not 1 <= self.number <= 999_999:
            raise InvalidKey(f"recipe {self.slug}@{self.number}: the number must lie between 1 and 999999")

    @classmethod
    def parse(cls, text: str) -> RecipeKey:
        slug, _, number = text.partition("@")
        # A plain int() would accept ' 1', '+1' and '01', and so give one recipe several keys.
        if not re.fullmatch(r"[1-9][0-9]{0,5}", number):
            raise InvalidKey(
                f"recipe key {text!r}: accepted is slug@N with a whole number N from 1, for example tiny-lora@1"
            )
        return cls(slug, int(number))

    def __str__(self) -> str:
        return f"{self.slug}@{self.number}"


@dataclass(frozen=True, slots=True, order=True)
class BaseKey:
    """``slug@revision8``: a base model pinned to the first 8 characters of its source's digest."""

    slug: str
    revision: str

    def __post_init__(self) -> None:
        check_slug(self.slug, "base model")
        if not _REVISION.fullmatch(self.revision):
            raise InvalidKey(f"base model {self.slug}@{self.revision}: the revision must be 8 hexadecimal characters")

    @classmethod
    def parse(cls, text: str) -> BaseKey:
        slug, _, revision = text.partition("@")
        return cls(slug, revision)

    def __str__(self) -> str:
        return f"{self.slug}@{self.revision}"


@dataclass(frozen=True, slots=True, order=True)
class LineKey:
    """dataset x recipe: the partition of everything trained, ``tenant/name|slug@N`` in Dagster."""

    dataset: DatasetKey
    recipe: RecipeKey

    @classmethod
    def parse(cls, text: str) -> LineKey:
        dataset, bar, recipe = text.partition("|")
        if not bar:
            raise InvalidKey(f"line key {text!r} has no '|': accepted is tenant/name|slug@N")
        return cls(DatasetKey.parse(dataset), RecipeKey.parse(recipe))

    def __str__(self) -> str:
        return f"{self.dataset}|{self.recipe}"


def new_job_id() -> str:
    """``ftjob-`` and 16 random characters; unguessable, because a job id is shown to customers."""
    return f"ftjob-{secrets.token_hex(8)}"


def served_name(base: BaseKey, dataset: DatasetKey, weights: str) -> str:
    """``ft:{base}:{tenant}:{dataset}:{8 characters of the weights' digest}``: one name for the same bytes, for ever."""
    return f"ft:{base.slug}:{dataset.tenant}:{dataset.name}:{weights[:8]}"
