"""Rows -> token ids and labels: the loss covers the assistant's trained turns and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ftplatform.core.errors import DataRefused
from ftplatform.core.rows import Row
from ftplatform.data.render import ChatTemplate, Spans

IGNORED = -100
"""The label without loss, as torch's cross entropy has it."""
_BATCH = 512


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
    """Rows of at most ``max_length`` tokens, whole; a row is never cut."""
    too_long: list[dict[str, Any]]
    """{source, tokens} of the rows left out."""
    max_length: int

    @property
    def lengths(self) -> list[int]:
        return [len(row.input_ids) for row in self.rows]


def open_tokenizer(tokenizer_json: Path | bytes | Tokenizer) -> Tokenizer:
    if isinstance(tokenizer_json, Tokenizer):
        return tokenizer_json
    raw = tokenizer_json if isinstance(tokenizer_json, bytes) else tokenizer_json.read_bytes()
    tokenizer = Tokenizer.from_str(raw.decode())
    # A saved tokenizer can carry truncation and padding of its own, which would cut rows without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokenize_rows(
    rows: Sequence[Row], tokenizer_json: Path | bytes | Tokenizer, template: ChatTemplate, max_length: int
) -> Tokenized:
    """Render and encode in batches; special tokens come from the template alone (``add_special_tokens=False``).

    Raises:
        DataRefused: a message contains the text of a control token, which would be encoded as the token itself.
        InvalidConfig: the template cannot render a row.
    """
    tokenizer = open_tokenizer(tokenizer_json)
    _refuse_control_tokens(rows, tokenizer, template)
    done: list[TokenizedRow] = []
    too_long: list[dict[str, Any]] = []
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        rendered = [template.render_with_spans(row.messages) for row in batch]
        encodings = tokenizer.encode_batch([text for text, _ in rendered], add_special_tokens=False)
        for row, (_, spans), encoding in zip(batch, rendered, encodings, strict=True):
            ids = np.asarray(encoding.ids, dtype=np.int32)
            if len(ids) > max_length:
                too_long.append({"source": row.source, "tokens": len(ids)})
                continue
            flags = [m.train for m in row.messages if m.role == "assistant"]
            trained = [span for span, train in zip(spans, flags, strict=True) if train]
            mask = _covered(np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2), trained)
            done.append(TokenizedRow(row.source, ids, np.where(mask, ids, np.int32(IGNORED)), len(trained)))
    return Tokenized(done, too_long, max_length)


def _covered(offsets: NDArray[np.int64], spans: Spans) -> NDArray[np.bool_]:
    """Which tokens hold a character of a span. Tokens without width (trimmed white space) count where they begin."""
    starts, ends = offsets[:, 0], np.maximum(offsets[:, 1], offsets[:, 0] + 1)
    mask = np.zeros(len(offsets), dtype=bool)
    for start, end in spans:
        mask |= (starts < end) & (ends > start)
    return mask


def control_tokens(tokenizer: Tokenizer, template: ChatTemplate) -> tuple[str, ...]:
    """Texts that the tokenizer turns into control tokens: special ones, and added ones the template writes."""
    return tuple(
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.content.strip() and (token.special or token.content in template.source)
    )


def _refuse_control_tokens(rows: Sequence[Row], tokenizer: Tokenizer, template: ChatTemplate) -> None:
    tokens = control_tokens(tokenizer, template)
    found = [
        f"{row.source} ({token})"
        for row in rows
        for message in row.messages
        for token in tokens
        if token in message.content
    ]
    if found:
        raise DataRefused(
            f"{len(found)} messages contain control tokens of the base model: {', '.join(found[:10])}. Accepted is "
            "text without them, because they would end or open a turn; remove or rewrite them. A retry without a "
            "change does not help"
        )
