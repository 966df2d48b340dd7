"""From shipped suite folders and held-out rows to suites in the store, named by digest. Control plane: no torch.

A suite's digest is that of its stored ``SuiteSpec``, which names the items by digest: a plan that pins it evaluates
the same items on the same terms even when the package is upgraded between planning and evaluation.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from ftplatform.core.dataset_config import HELDOUT_SUITE, DatasetConfig, problems
from ftplatform.core.errors import DataRefused, InvalidConfig, NotFound
from ftplatform.core.frozen import Frozen
from ftplatform.core.payload import SuiteSpec
from ftplatform.core.plan import PinnedSuite
from ftplatform.core.rows import Row
from ftplatform.data.text import normalise
from ftplatform.evaluation.items import Item, Kind, Turn, dump_items, parse_items
from ftplatform.evaluation.margins import gating_suites, margin_of
from ftplatform.store.base import ObjectStore

MOST_HELDOUT = 5000
"""Held-out rows a model is asked: at 5,000 a difference of two points is seen with near certainty (95 % interval of a
share: 1.4 points), and more cost time without changing a verdict."""
FOLDER = Path(__file__).parent / "suites"


class SuiteDefinition(Frozen):
    """``suite.yaml`` of a shipped suite."""

    name: str
    kind: Kind
    description: str
    max_new_tokens: int = Field(32, ge=1)


@dataclass(frozen=True, slots=True)
class StoredSuite:
    spec: SuiteSpec
    digest: str
    n: int

    def pinned(self, margins: Mapping[str, float]) -> PinnedSuite:
        """As a plan pins it, with the dataset's margin or the platform's."""
        return PinnedSuite(name=self.spec.name, digest=self.digest, margin=margin_of(self.spec.name, margins), n=self.n)


def platform_suites() -> tuple[str, ...]:
    """Names of the suites in the package, sorted."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/suite.yaml")))


def check_suites(config: DatasetConfig) -> None:
    """Look up every suite and margin a dataset.yaml names.

    Raises:
        NotFound: no suite of that name; the message lists the known ones.
        InvalidConfig: a margin for a suite that does not gate the dataset, or one wider than the suite allows.
    """
    for name in config.suites:
        read_suite(name)
    gating = gating_suites(config.suites)
    for name in config.margins:
        if name not in gating:
            raise InvalidConfig(
                f"margins.{name}: no suite of that name gates the dataset; accepted are {', '.join(gating)}"
            )
        margin_of(name, config.margins)


def publish_suite(store: ObjectStore, name: str) -> StoredSuite:
    """Put a shipped suite into the store.

    Raises:
        NotFound: no suite of that name; the message lists the known ones.
    """
    definition, items = read_suite(name)
    return publish_items(store, name, items, definition.max_new_tokens)


def heldout_sample(rows: Iterable[Row]) -> list[Row]:
    """The rows of a test split that can be asked and compared word by word, in their order, at most ``MOST_HELDOUT``.

    Of more, those with the lowest hashes: the same ones again when rows are added elsewhere. Conversations with tools and
    rows of other kinds than ``chat`` have no single right answer to compare with.
    """
    return smallest(rows, askable)


def smallest(rows: Iterable[Row], wanted: Callable[[Row], bool]) -> list[Row]:
    """At most ``MOST_HELDOUT`` of the wanted rows, in their order."""
    known = ((row.hash, number, row) for number, row in enumerate(rows) if wanted(row))
    chosen = heapq.nsmallest(MOST_HELDOUT, known, key=lambda one: one[:2])
    return [row for _, _, row in sorted(chosen, key=lambda one: one[1])]


def askable(row: Row) -> bool:
    """Whether the row is a conversation without tools."""
    tools = row.tools or any(m.role == "tool" or m.tool_calls for m in row.messages)
    return row.kind == "chat" and not tools


def publish_heldout(store: ObjectStore, rows: Sequence[Row], max_new_tokens: int) -> StoredSuite:
    """Put the suite of a dataset's own test rows into the store: greedy answer against each row's last assistant turn.

    Raises:
        DataRefused: no rows, or a row without an assistant turn.
    """
    # Rows with one hash are one conversation: counting it twice would claim more evidence than there is.
    items = list({item.id: item for item in map(heldout_item, rows)}.values())
    if not items:
        raise DataRefused(
            "the dataset has no test rows, so nothing can show that a model learned it: raise split.test in "
            "dataset.yaml, name test_files, or upload more rows"
        )
    return publish_items(store, HELDOUT_SUITE, items, max_new_tokens)


def heldout_item(row: Row) -> Item:
    """The prompt is every turn before the last assistant turn; the id is the row's hash."""
    last = max((i for i, message in enumerate(row.messages) if message.role == "assistant"), default=0)
    if last == 0:
        raise DataRefused(
            f"test row {row.source}: there is no assistant turn with a turn before it, so nothing can be asked"
        )
    turns: list[Any] = [Turn.model_validate({"role": m.role, "content": m.content}) for m in row.messages[:last]]
    return Item(id=row.hash, messages=tuple(turns), reference=row.messages[last].content, tags=row.tags)


def pinned_spec(store: ObjectStore, pinned: PinnedSuite) -> SuiteSpec:
    """The suite a plan pinned, from the store."""
    return SuiteSpec.model_validate(store.get_json(pinned.digest))


def suite_items(store: ObjectStore, spec: SuiteSpec) -> list[Item]:
    return parse_items(store.get_bytes(spec.items), spec.kind, f"suite {spec.name!r}")


@cache
def prompts_by_suite() -> dict[str, tuple[str, ...]]:
    """The last user turn of every item of every shipped suite, in the form of ``ftplatform.data.text.normalise``."""
    return {
        name: tuple(
            dict.fromkeys(
                normalise(turn.content)
                for item in read_suite(name)[1]
                for turn in [t for t in item.messages if t.role == "user"][-1:]
            )
        )
        for name in platform_suites()
    }


@cache
def read_suite(name: str) -> tuple[SuiteDefinition, tuple[Item, ...]]:
    """Definition and items of a shipped suite.

    Raises:
        NotFound: no such suite.
        InvalidConfig: suite.yaml cannot be used or bears another name than its folder.
    """
    if name not in platform_suites():
        raise NotFound(f"there is no evaluation suite {name!r}: known are {', '.join(platform_suites()) or 'none'}")
    where = f"suites/{name}/suite.yaml"
    try:
        definition = SuiteDefinition.model_validate(yaml.safe_load((FOLDER / name / "suite.yaml").read_text("utf-8")))
    except ValidationError as error:
        raise InvalidConfig(f"{where} cannot be used:\n{problems(error)}") from error
    if definition.name != name:
        raise InvalidConfig(f"{where} says name: {definition.name}; accepted is the folder's name, {name}")
    data = (FOLDER / name / "items.jsonl").read_bytes()
    return definition, tuple(parse_items(data, definition.kind, f"suites/{name}/items.jsonl"))


def publish_items(store: ObjectStore, name: str, items: Sequence[Item], max_new_tokens: int) -> StoredSuite:
    spec = SuiteSpec(
        name=name, kind=items[0].kind, items=store.put_bytes(dump_items(list(items))), max_new_tokens=max_new_tokens
    )
    return StoredSuite(spec, store.put_json(spec.model_dump(mode="json")), len(items))
