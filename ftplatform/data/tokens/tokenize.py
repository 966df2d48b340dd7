"""Rows -> token ids and labels: the loss covers the assistant's trained turns and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ftplatform.core.errors import DataRefused
from ftplatform.core.rows import Row
from ftplatform.data.rendering.render import ChatTemplate
from ftplatform.data.tokens.encoding import Encoder

IGNORED = -100
"""The label without loss, as torch's cross entropy has it."""
_BATCH = 2048


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    source: str
    input_ids: NDArray[np.int32]
    """[T]"""
    labels: NDArray[np.int32]
    """[T]; the token itself where it carries loss, else -100. Not shifted: the loss does that."""
    trained_turns: int


@dataclass(frozen=True, slots=True)
class Tokenized:
    rows: list[TokenizedRow]
    """Rows of at most ``max_length`` tokens, whole; a row is never cut. A preference row is two: chosen, rejected."""
    too_long: list[dict[str, Any]]
    """{source, tokens} of the rows left out."""
    max_length: int

    @property
    def lengths(self) -> list[int]:
        return [len(row.input_ids) for row in self.rows]


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """N rows as S sequences of tokens, end to end. A row is one sequence; a preference row two, chosen and rejected."""

    ids: NDArray[np.int32]
    """[T]"""
    learned: NDArray[np.bool_]
    """[T]: the token carries loss."""
    lengths: NDArray[np.int64]
    """[S]"""
    turns: NDArray[np.int32]
    """[S] turns that carry loss."""
    extra: tuple[bytes, ...]
    """[N]: JSON of what a trainer reads beside the tokens: ``true`` or ``false`` of a labelled row, ``extra`` of a prompt;
    empty for the other kinds.
    """


def open_tokenizer(tokenizer_json: Path | bytes | Tokenizer) -> Tokenizer:
    if isinstance(tokenizer_json, Tokenizer):
        return tokenizer_json
    raw = tokenizer_json if isinstance(tokenizer_json, bytes) else tokenizer_json.read_bytes()
    tokenizer = Tokenizer.from_str(raw.decode())
    # A saved tokenizer can carry truncation and padding of its own, which would cut rows without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class RowTokenizer:
    """Renders and encodes rows of every kind; special tokens come from the template alone."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._template = template
        self._encoder = Encoder(tokenizer)
        tokens = control_tokens(tokenizer, template)
        self._control = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def __call__(self, rows: Sequence[Row]) -> TokenBlock:
        """The rows' tokens, whole, however long.

        Raises:
            DataRefused: a message contains the text of a control token, which would be encoded as the token itself.
            InvalidConfig: the template cannot render a row.
        """
        self._refuse_control_tokens(rows)
        rendered = [
            one for row in self._template.render_rows(rows) for one in ((row, row.rejected) if row.rejected else (row,))
        ]
        encoded = self._encoder.encode([one.text for one in rendered], [one.spans for one in rendered])
        turns = np.array([len(one.spans) for one in rendered], dtype=np.int32)
        return TokenBlock(encoded.ids, encoded.learned, encoded.lengths, turns, tuple(map(_extra, rows)))

    def _refuse_control_tokens(self, rows: Sequence[Row]) -> None:
        if self._control is None or not self._control.search(
            "\n".join(text for row in rows for text in row.contents())
        ):
            return
        found = [
            f"{row.source} ({token})"
            for row in rows
            for text in row.contents()
            for token in self._control.findall(text)
        ]
        if found:
            raise DataRefused(
                f"{len(found)} messages contain control tokens of the base model: {', '.join(found[:10])}. Accepted is "
                "text without them, because they would end or open a turn; remove or rewrite them. A retry without a "
                "change does not help"
            )


def tokenize_rows(
    rows: Sequence[Row], tokenizer_json: Path | bytes | Tokenizer, template: ChatTemplate, max_length: int
) -> Tokenized:
    """The rows as arrays of their own, for a sample or a look; ``data/tokens/work.py`` does a whole split.

    Raises:
        DataRefused, InvalidConfig: as ``RowTokenizer``.
    """
    tokenize = RowTokenizer(open_tokenizer(tokenizer_json), template)
    done: list[TokenizedRow] = []
    too_long: list[dict[str, Any]] = []
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        sources = [row.source for row in batch for _ in range(2 if row.kind == "preference" else 1)]
        for one in rows_of_block(tokenize(batch), sources):
            if len(one.input_ids) > max_length:
                too_long.append({"source": one.source, "tokens": len(one.input_ids)})
            else:
                done.append(one)
    return Tokenized(done, too_long, max_length)


def rows_of_block(block: TokenBlock, sources: Sequence[str]) -> list[TokenizedRow]:
    """A block's sequences as arrays of their own; ``sources`` [S]."""
    labels = np.where(block.learned, block.ids, np.int32(IGNORED))
    borders = np.cumsum(block.lengths)[:-1]
    columns = sources, np.split(block.ids, borders), np.split(labels, borders), block.turns.tolist()
    return [TokenizedRow(*one) for one in zip(*columns, strict=True)] if len(sources) else []


def control_tokens(tokenizer: Tokenizer, template: ChatTemplate) -> tuple[str, ...]:
    """Texts that the tokenizer turns into control tokens: special ones, and added ones the template writes."""
    return tuple(
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.content.strip() and (token.special or token.content in template.source)
    )


def _extra(row: Row) -> bytes:
    if row.kind == "labelled":
        return b"true" if row.label else b"false"
    return orjson.dumps(row.extra, option=orjson.OPT_SORT_KEYS) if row.kind == "prompt" else b""
