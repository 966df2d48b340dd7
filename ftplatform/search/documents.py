"""The trials of a search in the store: a document each, written when it begins, at every look at it and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftplatform.core.digests import digest_json
from ftplatform.core.ids import LineKey
from ftplatform.core.recipe import Recipe
from ftplatform.core.search_config import Objective
from ftplatform.core.search_result import Trial
from ftplatform.store import ObjectStore


def study_key(
    recipe: Recipe, *, curated: str, base: str, judged_by: str, objective: Objective, pinned: list[Any]
) -> str:
    """Digest of what trials must share to be compared; more trials, other caps and more slots go on with the same ones.

    ``pinned`` is what the recipe names by a word that means something else tomorrow: the start, reward models.
    """
    assert recipe.search is not None
    search = recipe.search.model_dump(
        mode="json", exclude={"trials", "max_hours", "max_price", "parallel", "objective"}
    )
    body = recipe.model_dump(mode="json", exclude={"search", "name", "version", "description"})
    return digest_json([curated, base, judged_by, objective, body, search, pinned])


@dataclass(frozen=True, slots=True)
class Study:
    """The trials of one study of a line; ``key`` is a ``study_key``."""

    store: ObjectStore
    line: LineKey
    key: str

    def trials(self) -> list[Trial]:
        """By number; one that was running when its search died still says so."""
        return [Trial.model_validate(self.store.get_doc(name)) for name in self.store.list_docs(self._place)]

    def save(self, trial: Trial) -> None:
        self.store.put_doc(f"{self._place}/{trial.number:04d}", trial.model_dump(mode="json"))

    def begin(self, objective: Objective) -> None:
        """Say that this is the line's newest study."""
        self.store.put_doc(_newest(self.line), {"study": self.key, "objective": objective})

    @property
    def _place(self) -> str:
        return f"search/{self.line.dataset}/{self.line.recipe}/{self.key[:16]}"


def newest_study(store: ObjectStore, line: LineKey) -> tuple[Study, Objective] | None:
    """The study of the line that was worked on last; None where there was none."""
    found = store.find_doc(_newest(line))
    return (Study(store, line, found["study"]), found["objective"]) if found else None


def _newest(line: LineKey) -> str:
    return f"search-newest/{line.dataset}/{line.recipe}"
