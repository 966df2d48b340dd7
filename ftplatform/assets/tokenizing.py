"""From rows in the store to shards in the store, by the text side of a base model: its chat format, without its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.digests import digest_json
from ftplatform.core.errors import DataRefused
from ftplatform.core.manifests import TokenizedShards
from ftplatform.core.methods import find_method
from ftplatform.core.plan import Plan
from ftplatform.data.mix import mix
from ftplatform.data.rendering.learned import learned_markdown, learned_page
from ftplatform.data.rendering.supervision import worth_a_look
from ftplatform.data.replay import replay_indices
from ftplatform.data.tables import length_histogram
from ftplatform.data.tokens.base_text import BaseText, chat_format, tree_file
from ftplatform.data.tokens.checks import check_rows
from ftplatform.data.tokens.fitted import Fitted
from ftplatform.data.tokens.row_cache import TokenBook
from ftplatform.data.tokens.shards import Layout, ShardWriter, layout_of
from ftplatform.data.tokens.tokenize import rows_of_block
from ftplatform.data.tokens.work import FileTokens, SplitShards, sources_of, tag_values, tokenize_file, write_split
from ftplatform.resources.platform import Parts

__all__ = ["SPLITS", "chat_format", "make_shards", "tree_file"]

SPLITS = ("train", "validation")


def make_shards(parts: Parts, plan: Plan, dataset: str, code: str) -> dict[str, Any]:
    """Tokenize the plan's splits and store their shards; ``code`` is the digest of what decides a row's tokens.

    Gives ``manifest``, ``checks``, ``fill``, ``tokenized`` (rows that had to be), ``mix`` (asked and realised shares),
    ``learned`` (markdown), ``page`` (an object: the same rows in colours, HTML) and ``lengths`` (an object: PNG).

    Raises:
        DataRefused, InvalidConfig: rows that the template or the method cannot take.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _Work(parts, plan, Path(folder), dataset, code).done()


class _Work:
    """One split after the other, from its rows in the store to shards in the store; disk holds the tokens in use."""

    def __init__(self, parts: Parts, plan: Plan, folder: Path, dataset: str, code: str) -> None:
        self._parts, self._plan, self._folder, self._dataset = parts, plan, folder, dataset
        self._base = BaseText(parts.settings.store, plan.base.weights)
        self._text = chat_format(parts.store, plan.base.weights)
        name = digest_json([code, self._text.tokenizer_digest, self._text.template.digest, sorted(self._text.stop_ids)])
        self._book = TokenBook(parts.store, f"{dataset}/{name}", folder)

    def done(self) -> dict[str, Any]:
        plan, store = self._plan, self._parts.store
        files = {name: [store.path(plan.curated.splits[name])] for name in SPLITS}
        if plan.replay:
            assert plan.base.replay is not None
            files["train"].append(store.path(plan.base.replay))
        tokens = {name: [self._tokenized(path) for path in paths] for name, paths in files.items()}
        layout = layout_of(frozenset().union(*(one.kinds for found in tokens.values() for one in found)))
        learns_from = find_method(plan.method).layouts
        if layout not in learns_from:
            raise DataRefused(
                f"the rows are of the layout {layout}, which the method {plan.method} cannot learn from: accepted are "
                f"{', '.join(learns_from)}. Choose a recipe with another method; a retry does not help"
            )
        orders = {name: self._order(name, files[name], found) for name, found in tokens.items()}
        splits = {name: self._written(tokens[name], layout, orders[name][0]) for name in SPLITS}
        train, order = splits["train"], orders["train"][0]

        def sources(places: Sequence[int]) -> dict[int, str]:
            found = sources_of(files["train"], [int(order[place]) for place in places])
            return {place: found[int(order[place])] for place in places}

        checks = check_rows(train.rows, plan.training.too_long, sources)
        manifest = TokenizedShards(
            layout=layout,
            shards={name: split.written.files for name, split in splits.items()},
            sequences={name: split.written.sequences for name, split in splits.items()},
            tokens={name: split.written.tokens for name, split in splits.items()},
            supervised={name: split.written.supervised for name, split in splits.items()},
            dropped={name: len(split.rows.too_long) for name, split in splits.items()},
            max_length=plan.training.max_length,
            template=self._text.template.digest,
            tokenizer=self._text.tokenizer_digest,
        )
        lengths = length_histogram(train.rows.figures.lengths, "tokens per row", limit=plan.training.max_length)
        return {
            "manifest": manifest.model_dump(mode="json"),
            "checks": [{name: getattr(check, name) for name in check.__slots__} for check in checks],
            "fill": train.written.fill,
            "tokenized": sum(one.made for found in tokens.values() for one in found),
            "mix": orders["train"][1],
            **self._shown(train.rows, sources),
            "lengths": store.put_bytes(lengths),
        }

    def _tokenized(self, path: Path) -> FileTokens:
        return tokenize_file(self._book, self._base, path, self._parts.workers(path.stat().st_size))

    def _order(
        self, name: str, files: list[Path], found: list[FileTokens]
    ) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
        """The places of the rows in an epoch, counted over all files, and the mix as it came out."""
        plan, count = self._plan, len(found[0].keys)
        order, report = np.arange(count), []
        if name == "train" and plan.mix:
            mixed = mix(tag_values(files[0], plan.mix.by), plan.mix, plan.training.seed)
            order, report = mixed.indices, [{f: getattr(one, f) for f in one.__slots__} for one in mixed.report]
        if name == "train" and plan.replay:
            drawn = replay_indices(len(order), len(found[1].keys), plan.replay, plan.training.seed)
            order = np.concatenate([order, count + np.arange(len(found[1].keys))])[drawn]
        return order, report

    def _written(self, found: list[FileTokens], layout: Layout, order: NDArray[np.int64]) -> SplitShards:
        length = self._plan.training.max_length
        writer = ShardWriter(self._parts.store, self._folder, layout, length, self._text.pad_id)
        return write_split(self._book, np.concatenate([one.keys for one in found])[order], layout, length, writer)

    def _shown(self, rows: Fitted, sources: Callable[[Sequence[int]], dict[int, str]]) -> dict[str, str]:
        """The worst rows, and a few typical ones, as people read them."""
        wanted = worth_a_look(rows)
        numbers = np.array(list(wanted), dtype=np.int64)
        places = rows.kept[numbers // rows.per_row].tolist()
        source = sources(places) if places else {}
        whole = rows.sequences.reshape(-1, rows.per_row)[numbers // rows.per_row]
        block = self._book.take(whole.reshape(-1), rows.per_row)
        every = rows_of_block(block, [source[place] for place in places for _ in range(rows.per_row)])
        shown = [every[i * rows.per_row + n % rows.per_row] for i, n in enumerate(wanted)]
        why = list(wanted.values())
        title = f"What a model reads and learns of {self._dataset}"
        page = learned_page(shown, self._text.tokenizer, title, why)
        return {
            "learned": learned_markdown(shown, self._text.tokenizer, why),
            "page": self._parts.store.put_bytes(page.encode()),
        }
