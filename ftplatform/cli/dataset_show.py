"""``ft dataset show``: what is in the newest version, and with ``--tokens`` what a model reads and learns of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.text import Text

from ftplatform.cli.common import console, open_parts, show
from ftplatform.core.errors import DataRefused, InvalidConfig, NotFound
from ftplatform.core.ids import DatasetKey, RecipeKey
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.rows import SPLITS, Row
from ftplatform.data.blocks import read_rows
from ftplatform.data.rendering.chat_format import ChatFormat
from ftplatform.data.rendering.learned import learned_page, stretches
from ftplatform.data.rendering.supervision import supervision_findings, worst_first
from ftplatform.data.rendering.template_check import check_template
from ftplatform.data.text import shorten
from ftplatform.data.tokens.base_text import chat_format
from ftplatform.data.tokens.checks import check_rows
from ftplatform.data.tokens.figures import Figures, measure
from ftplatform.data.tokens.fitted import fit
from ftplatform.data.tokens.shards import layout_of
from ftplatform.data.tokens.tokenize import RowTokenizer, TokenizedRow, control_tokens, rows_of_block
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts

SAMPLED = 2000
"""Rows that ``--tokens`` looks at when none are named: a second or two, and the worst of them are shown."""


def show_dataset(
    dataset: Annotated[str, typer.Argument(help="tenant/name")],
    split: Annotated[str, typer.Option(help="train, validation or test")] = "train",
    rows: Annotated[int, typer.Option("--rows", min=1, help="rows shown")] = 5,
    row: Annotated[
        list[int] | None, typer.Option(help="this row of the split, counted from 1; may be repeated")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="show the tokens: what carries loss is green")] = False,
    recipe: Annotated[str | None, typer.Option(help="slug@N: its base model and length limit")] = None,
    base: Annotated[str | None, typer.Option(help="a registered base model, instead of a recipe")] = None,
    html: Annotated[Path | None, typer.Option(help="also write the shown rows as a page of its own")] = None,
) -> None:
    """Sizes of the splits, tags and first rows; with --tokens the worst rows as a model reads and learns them."""
    key = DatasetKey.parse(dataset)
    if split not in SPLITS:
        raise InvalidConfig(f"show {key}: no split {split!r}; accepted: {', '.join(SPLITS)}")
    if html is not None and not tokens:
        raise InvalidConfig("--html writes what --tokens shows: give both")
    parts = open_parts()
    curated = _curated(parts, key)
    path = parts.store.path(curated.splits[split])
    if tokens:
        text, limit = _text_side(parts, recipe, base)
        _show_tokens(str(key), path, row, rows, text, limit, html)
        return
    show(f"{key} {curated.content_digest[:12]}", ("split", "rows"), [(n, curated.rows[n]) for n in curated.splits])
    _show_tags(read_rows(path))
    for number, one in _picked(path, row, rows):
        console.print(f"\n{split} {number}  {one.source}  {_labels(one)}", markup=False, highlight=False, style="bold")
        for who, content in _turns(one):
            console.print(f"  {who}: {content}", markup=False, highlight=False)


def _curated(parts: Parts, key: DatasetKey) -> CuratedDataset:
    document = parts.store.find_doc(latest_doc("curated_dataset", str(key)))
    if document is None:
        raise NotFound(f"dataset {key} has no version yet: push files with `ft dataset push {key} FILE --run`")
    return CuratedDataset.model_validate(document["manifest"])


def _text_side(parts: Parts, recipe: str | None, base: str | None) -> tuple[ChatFormat, int]:
    """The base model's tokenizer and template, and the length limit in tokens."""
    if (recipe is None) == (base is None):
        raise InvalidConfig("--tokens needs exactly one of --recipe slug@N and --base slug: whose tokens?")
    found = parts.catalog.recipes.get(RecipeKey.parse(recipe)) if recipe else None
    key = parts.catalog.bases.newest(found.base if found else str(base))
    document = parts.store.find_doc(latest_doc("base_model", str(key)))
    if document is None:
        raise NotFound(f"base model {key} was never made: run `ft base make {key.slug}`")
    model = BaseModel.model_validate(document["manifest"])
    return chat_format(parts.store, model.weights), found.training.max_length if found else model.max_length


def _picked(path: Path, wanted: Sequence[int] | None, limit: int) -> Iterator[tuple[int, Row]]:
    if not wanted:
        yield from enumerate(islice(read_rows(path), limit), 1)
        return
    left = set(wanted)
    for number, one in enumerate(islice(read_rows(path), max(left)), 1):
        if number in left:
            left.discard(number)
            yield number, one
    if left:
        raise NotFound(f"the split has no row {', '.join(map(str, sorted(left)))}")


def _show_tags(rows: Iterable[Row]) -> None:
    counts = Counter((name, value) for one in rows for name, value in one.tags.items())
    if counts:
        show("tags", ("tag", "value", "rows"), [(n, v, count) for (n, v), count in counts.most_common(20)])


def _labels(row: Row) -> str:
    return " ".join([row.kind] * (row.kind != "chat") + [f"{name}={value}" for name, value in row.tags.items()])


def _turns(row: Row) -> Iterator[tuple[str, str]]:
    for part, messages in (("", row.messages), ("chosen ", row.chosen), ("rejected ", row.rejected)):
        for message in messages:
            calls = "".join(f" calls {call.name}({call.arguments})" for call in message.tool_calls)
            yield part + message.role, shorten((message.content + calls).replace("\n", " ⏎ "), 500)
    if row.text:
        yield "text", shorten(row.text.replace("\n", " ⏎ "), 500)


def _show_tokens(
    title: str,
    path: Path,
    wanted: Sequence[int] | None,
    limit: int,
    text: ChatFormat,
    max_length: int,
    html: Path | None,
) -> None:
    template = text.template
    control = control_tokens(text.tokenizer, template)
    for check in check_template(template.source, template.special_tokens, template.stop_tokens, control):
        if not check.passed:
            console.print(f"{check.severity} {check.name}: {check.message}", markup=False, highlight=False)
    rows = [one for _, one in _picked(path, wanted, SAMPLED)]
    if not rows:
        raise DataRefused(f"{title}: the split has no rows, so there are no tokens to show")
    block = RowTokenizer(text.tokenizer, template)(rows)
    fitted = fit(measure(block, text.stop_ids), np.arange(len(rows)), layout_of({one.kind for one in rows}), max_length)

    def sources(places: Sequence[int]) -> dict[int, str]:
        return {place: rows[place].source for place in places}

    for check in check_rows(fitted, "refuse", sources):
        console.print(
            f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.message}", markup=False, highlight=False
        )
    for found in supervision_findings(fitted, "refuse", sources, limit):
        console.print(
            f"{found.file}:{found.line} {found.code}: {found.found}; {found.fix}", markup=False, highlight=False
        )
    worst = worst_first(fitted)[: None if wanted else limit]
    every = rows_of_block(block, [one.source for one in rows for _ in range(fitted.per_row)])
    shown = [every[number] for number in fitted.sequences[worst].tolist()]
    for one, number in zip(shown, worst.tolist(), strict=True):
        _print_row(one, fitted.figures, number, text)
    if html is not None:
        html.write_text(learned_page(shown, text.tokenizer, title), encoding="utf-8")
        console.print(f"page: {html}", markup=False)


def _print_row(row: TokenizedRow, figures: Figures, number: int, text: ChatFormat) -> None:
    console.print(
        f"\n{row.source}: {figures.lengths[number]} tokens, {figures.supervised[number]} carry loss "
        f"({figures.share[number]:.0%})",
        markup=False, highlight=False, style="bold",
    )  # fmt: skip
    line = Text()
    for piece, learned in stretches(row.input_ids, row.labels, text.tokenizer):
        # Marked by brackets too: a pipe or a log has no colours.
        line.append(f"⟦{piece}⟧" if learned else piece, style="black on green" if learned else "dim")
    console.print(line, soft_wrap=True)
