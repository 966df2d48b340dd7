"""From rows in the store to shards in the store, by the text side of a base model: its chat format, without its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.digests import digest_json
from ftplatform.core.errors import DataRefused, NotFound
from ftplatform.core.manifests import TokenizedShards
from ftplatform.core.plan import Plan
from ftplatform.data.mix import mix
from ftplatform.data.rendering.chat_format import ChatFormat, load_chat_format
from ftplatform.data.rendering.supervision import learned_markdown
from ftplatform.data.replay import replay_indices
from ftplatform.data.tables import length_histogram
from ftplatform.data.tokens.checks import check_split
from ftplatform.data.tokens.row_cache import TokenBook
from ftplatform.data.tokens.shards import Layout, ShardWriter, layout_of
from ftplatform.data.tokens.tokenize import IGNORED, TokenizedRow
from ftplatform.data.tokens.work import FileTokens, SplitShards, sources_of, tag_values, tokenize_file, write_split
from ftplatform.resources.platform import Parts
from ftplatform.store import ObjectStore

SPLITS = ("train", "validation")
LAYOUTS: dict[str, tuple[Layout, ...]] = {"sft": ("sft", "text")}
"""What each method learns from."""

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def chat_format(store: ObjectStore, weights: str) -> ChatFormat:
    """Tokenizer, template and stop tokens of the model folder ``weights``.

    Raises:
        InvalidConfig: the folder lacks one of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        return load_chat_format(text_folder(store, weights, Path(folder)))


def text_folder(store: ObjectStore, weights: str, folder: Path) -> Path:
    """Write the text files of the model folder ``weights`` into ``folder``, which is given back."""
    for file in store.tree(weights).files:
        if file.path in TEXT_FILES:
            (folder / file.path).write_bytes(store.get_bytes(file.digest))
    return folder


def tree_file(store: ObjectStore, weights: str, name: str) -> bytes:
    """One file of a model folder; raises NotFound."""
    file = next((file for file in store.tree(weights).files if file.path == name), None)
    if file is None:
        raise NotFound(f"model folder {weights[:12]} has no {name}")
    return store.get_bytes(file.digest)


def make_shards(parts: Parts, plan: Plan, dataset: str, code: str) -> dict[str, Any]:
    """Tokenize the plan's splits and store their shards; ``code`` is the digest of what decides a row's tokens.

    Gives ``manifest``, ``checks``, ``fill``, ``tokenized`` (rows that had to be), ``mix`` (asked and realised shares),
    ``learned`` (markdown) and ``lengths`` (an object: PNG).

    Raises:
        DataRefused, InvalidConfig: rows that the template or the method cannot take.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _Work(parts, plan, Path(folder), dataset, code).done()


class _Work:
    """One split after the other, from its rows in the store to shards in the store; disk holds the tokens in use."""

    def __init__(self, parts: Parts, plan: Plan, folder: Path, dataset: str, code: str) -> None:
        self._parts, self._plan, self._folder = parts, plan, folder
        (folder / "text").mkdir()
        self._folder_of_text = text_folder(parts.store, plan.base.weights, folder / "text")
        self._text = load_chat_format(self._folder_of_text)
        name = digest_json([code, self._text.tokenizer_digest, self._text.template.digest])
        self._book = TokenBook(parts.store, f"{dataset}/{name}", folder, self._text.stop_ids)

    def done(self) -> dict[str, Any]:
        plan, store = self._plan, self._parts.store
        files = {name: [store.path(plan.curated.splits[name])] for name in SPLITS}
        if plan.replay:
            assert plan.base.replay is not None
            files["train"].append(store.path(plan.base.replay))
        tokens = {name: [self._tokenized(path) for path in paths] for name, paths in files.items()}
        layout = layout_of(frozenset().union(*(one.kinds for found in tokens.values() for one in found)))
        if layout not in LAYOUTS[plan.method]:
            raise DataRefused(
                f"the rows are of the layout {layout}, which the method {plan.method} cannot learn from: accepted are "
                f"{', '.join(LAYOUTS[plan.method])}. Choose a recipe with another method; a retry does not help"
            )
        orders = {name: self._order(name, files[name], found) for name, found in tokens.items()}
        splits = {name: self._written(tokens[name], layout, orders[name][0]) for name in SPLITS}
        train, order = splits["train"], orders["train"][0]

        def sources(places: Sequence[int]) -> dict[int, str]:
            found = sources_of(files["train"], [int(order[place]) for place in places])
            return {place: found[int(order[place])] for place in places}

        checks = check_split(train, layout, plan.training.max_length, plan.training.too_long, sources)
        manifest = TokenizedShards(
            layout=layout,
            shards={name: split.written.files for name, split in splits.items()},
            sequences={name: split.written.sequences for name, split in splits.items()},
            tokens={name: split.written.tokens for name, split in splits.items()},
            supervised={name: split.written.supervised for name, split in splits.items()},
            dropped={name: len(split.too_long) for name, split in splits.items()},
            max_length=plan.training.max_length,
            template=self._text.template.digest,
            tokenizer=self._text.tokenizer_digest,
        )
        lengths = length_histogram(train.figures.lengths.tolist(), "tokens per row", limit=plan.training.max_length)
        return {
            "manifest": manifest.model_dump(mode="json"),
            "checks": [{name: getattr(check, name) for name in check.__slots__} for check in checks],
            "fill": train.written.fill,
            "tokenized": sum(one.made for found in tokens.values() for one in found),
            "mix": orders["train"][1],
            "learned": learned_markdown(self._shown(train, sources), self._text.tokenizer),
            "lengths": store.put_bytes(lengths),
        }

    def _tokenized(self, path: Path) -> FileTokens:
        return tokenize_file(self._book, self._folder_of_text, path, self._parts.workers(path.stat().st_size))

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

    def _shown(self, split: SplitShards, sources: Callable[[Sequence[int]], dict[int, str]]) -> list[TokenizedRow]:
        places = split.kept[: len(split.first)].tolist()
        source = sources(places)
        return [
            TokenizedRow(source[place], block.ids, np.where(block.learned, block.ids, np.int32(IGNORED)), 0)
            for place, block in zip(places, split.first, strict=True)
        ]
