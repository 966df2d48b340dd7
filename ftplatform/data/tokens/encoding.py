"""Texts -> token ids and the mask of what is learned, many at a time.

A byte-level BPE tokenizer cuts a text at its added tokens, cuts the rest into words by a pattern, and encodes every
word by itself. Words repeat, so a table of words with their tokens does the work of the library's encoder at a few
times its speed: the pattern cuts, the table answers, numpy joins. The library's pattern engine (Oniguruma) and ours
(`regex`) agree on every character of Unicode 14 but U+0295; a text with another one, and every text of a tokenizer of
another build (SentencePiece, WordPiece), goes through the library. The ids are the library's own in all cases; one
text in `_SAMPLE` is compared.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ftplatform.data.tokens.ragged import ragged, starts_of, sums

Spans = Sequence[tuple[int, int]]
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of a ByteLevel pre-tokenizer that brings none (`tokenizers`, pre_tokenizers/byte_level.rs)."""
_MOST_WORDS = 300_000
"""Words kept, about 60 MB; a table that grew beyond is begun anew at the next call."""
_SAMPLE = 128


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of N texts, end to end."""

    ids: NDArray[np.int32]
    """[T]"""
    learned: NDArray[np.bool_]
    """[T]: the token holds a character of one of its text's spans."""
    lengths: NDArray[np.int64]
    """[N] tokens per text."""


class Encoder:
    """Not safe for use by several threads at a time: the table of words grows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = _words_of(tokenizer)

    @property
    def by_words(self) -> bool:
        """Whether the tokenizer is one whose words can be looked up."""
        return self._words is not None

    def encode(self, texts: Sequence[str], spans: Sequence[Spans]) -> Encoded:
        """Encode without adding special tokens; ``spans`` are half-open character ranges, ascending, per text."""
        if self._words is None:
            return self._by_library(texts, spans)
        usable = self._words.usable(texts)
        fast = [text for text, ok in zip(texts, usable, strict=True) if ok]
        done, sizes = self._words.encode(fast)
        covered = _byte_mask(done, sizes, fast, [s for s, ok in zip(spans, usable, strict=True) if ok])
        if covered is None or not self._sample_agrees(fast, done):
            return self._by_library(texts, spans)
        encoded = Encoded(done.ids, covered, done.lengths)
        if usable.all():
            return encoded
        slow = np.flatnonzero(~usable).tolist()
        others = self._by_library([texts[i] for i in slow], [spans[i] for i in slow])
        places = np.argsort(np.concatenate([np.flatnonzero(usable), slow]), kind="stable")
        return take(join([encoded, others]), places)

    def _by_library(self, texts: Sequence[str], spans: Sequence[Spans]) -> Encoded:
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        masks = [_char_mask(encoding.offsets, s) for encoding, s in zip(encodings, spans, strict=True)]
        lengths = np.array([len(one) for one in ids], dtype=np.int64)
        return Encoded(_concatenated(ids, np.int32), _concatenated(masks, np.bool_), lengths)

    def _sample_agrees(self, texts: Sequence[str], done: _Ids) -> bool:
        starts = starts_of(done.lengths)
        return all(
            done.ids[starts[i] : starts[i] + done.lengths[i]].tolist()
            == self._tokenizer.encode(texts[i], add_special_tokens=False).ids
            for i in range(0, len(texts), _SAMPLE)
        )


def join(parts: Sequence[Encoded]) -> Encoded:
    """Texts of all parts, one after another."""
    return Encoded(
        _concatenated([p.ids for p in parts], np.int32),
        _concatenated([p.learned for p in parts], np.bool_),
        _concatenated([p.lengths for p in parts], np.int64),
    )


def take(encoded: Encoded, rows: NDArray[np.int64]) -> Encoded:
    """The texts with the numbers ``rows`` [M], in that order."""
    lengths = encoded.lengths[rows]
    at = ragged(starts_of(encoded.lengths)[rows], lengths)
    return Encoded(encoded.ids[at], encoded.learned[at], lengths)


@dataclass(frozen=True, slots=True)
class _Ids:
    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]


class _Words:
    """The words of one byte-level tokenizer and their tokens."""

    def __init__(self, tokenizer: Tokenizer, pattern: str, added: dict[str, int], composes: bool) -> None:
        import regex

        self._model = tokenizer.model
        self._find = regex.compile(pattern).findall
        # Longest first, because of several tokens that begin alike the library takes the longest.
        choices = "|".join(map(re.escape, sorted(added, key=len, reverse=True)))
        self._cut = re.compile(f"({choices})").split if added else lambda text: [text]
        self._added = added
        self._composes = composes
        self._table: _Table = _Table(self._encode_word)

    def usable(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """[N] whether both pattern engines read a text alike, and the tokenizer does not rewrite it first."""
        fine = np.fromiter((text.isascii() for text in texts), np.bool_, len(texts))
        others = np.flatnonzero(~fine).tolist()
        codes = np.frombuffer("".join(texts[i] for i in others).encode("utf-32-le"), dtype=np.uint32)
        disputed = sums(_disputed(codes), np.array([len(texts[i]) for i in others], dtype=np.int64))
        composed = [not self._composes or unicodedata.is_normalized("NFC", texts[i]) for i in others]
        fine[others] = (disputed == 0) & np.array(composed, dtype=np.bool_)
        return fine

    def encode(self, texts: Sequence[str]) -> tuple[_Ids, NDArray[np.int64]]:
        """Tokens of the texts, and the size in bytes of every token."""
        if len(self._table) > _MOST_WORDS:
            self._table = _Table(self._encode_word)
        cuts = [self._cut(text) for text in texts]
        # What a template writes and system turns stand in every row: each piece is cut into words once.
        pieces: dict[str, int] = {}
        number = [pieces.setdefault(piece, len(pieces)) for piece in chain.from_iterable(cuts)]
        words = [[piece] if piece in self._added else self._find(piece) for piece in pieces]
        counts = np.fromiter(map(len, words), np.int64, len(words))
        found = np.fromiter(map(self._table.__getitem__, chain.from_iterable(words)), np.int64, int(counts.sum()))
        ids, sizes, lengths = self._table.arrays()
        piece = np.array(number, dtype=np.int64)
        word = found[ragged(starts_of(counts)[piece], counts[piece])]
        token = ragged(starts_of(lengths)[word], lengths[word])
        in_piece = np.zeros(len(pieces), dtype=np.int64)
        np.add.at(in_piece, np.repeat(np.arange(len(pieces)), counts), lengths[found])
        per_text = np.fromiter(map(len, cuts), np.int64, len(cuts))
        return _Ids(ids[token], sums(in_piece[piece], per_text)), sizes[token]

    def _encode_word(self, word: str) -> tuple[list[int], list[int]]:
        if word in self._added:
            return [self._added[word]], [len(word.encode())]
        tokens = self._model.tokenize(word.encode().decode("latin-1").translate(_byte_letters()))
        return [token.id for token in tokens], [len(token.value) for token in tokens]


class _Table(dict[str, int]):
    """word -> its number; tokens of all words end to end, made when a word is first asked for."""

    def __init__(self, encode: Any) -> None:
        super().__init__()
        self._encode = encode
        self._new: list[tuple[list[int], list[int]]] = []
        self._arrays = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __missing__(self, word: str) -> int:
        self._new.append(self._encode(word))
        self[word] = number = len(self)
        return number

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """ids [T], sizes of the tokens in bytes [T], tokens per word [W]."""
        if self._new:
            ids, sizes, lengths = self._arrays
            self._arrays = (
                np.concatenate([ids, np.array([i for word, _ in self._new for i in word], np.int32)]),
                np.concatenate([sizes, np.array([n for _, word in self._new for n in word], np.int64)]),
                np.concatenate([lengths, np.array([len(word) for word, _ in self._new], np.int64)]),
            )
            self._new = []
        return self._arrays


def _words_of(tokenizer: Tokenizer) -> _Words | None:
    """None for a tokenizer that cannot be taken apart into words; the reasons are in the conditions."""
    settings = json.loads(tokenizer.to_str())
    pattern = _pattern(settings["pre_tokenizer"] or {})
    normalizer = (settings["normalizer"] or {}).get("type")
    model = settings["model"]
    added = [token for token in settings["added_tokens"] if token["content"]]
    if (
        pattern is None
        or normalizer not in (None, "NFC")
        or model["type"] != "BPE"
        or model.get("dropout")
        # These reach beyond their own text, or are looked for in a second pass.
        or any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in added)
        or len({token["normalized"] for token in added}) > 1
    ):
        return None
    return _Words(tokenizer, pattern, {token["content"]: token["id"] for token in added}, normalizer == "NFC")


def _pattern(steps: dict[str, Any]) -> str | None:
    """The pattern that cuts words, where byte-level letters are made of them afterwards."""
    if steps.get("type") == "ByteLevel" and not steps["add_prefix_space"] and steps.get("use_regex", True):
        return _GPT2
    if steps.get("type") != "Sequence" or len(steps["pretokenizers"]) != 2:
        return None
    split, level = steps["pretokenizers"]
    # Matches alone and everything but matches removed are the same while the pattern matches everything, which the
    # comparison of sizes in bytes proves for every text.
    kept = (split.get("behavior"), split.get("invert")) in (("Isolated", False), ("Removed", True))
    plain = level["type"] == "ByteLevel" and not level["add_prefix_space"] and not level.get("use_regex", True)
    if split["type"] != "Split" or not kept or not plain or "Regex" not in split["pattern"]:
        return None
    return str(split["pattern"]["Regex"])


@cache
def _byte_letters() -> dict[int, int]:
    """byte -> the letter GPT-2 writes for it: itself where it is printable, else the next one from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: 256 + place for place, byte in enumerate(others)}


_UNSEEN = 2
_DISPUTED = np.full(0x110000, _UNSEEN, dtype=np.int8)
"""By character: whether it is disputed, or not looked at yet; all of them at once would take every process a third of a second."""


def _disputed(codes: NDArray[np.uint32]) -> NDArray[np.int64]:
    """1 for each character that the two engines may class differently: one newer than Python's own table (Unicode 14 in
    Python 3.11), and U+0295.
    """
    known = _DISPUTED[codes]
    if (known == _UNSEEN).any():
        for code in np.unique(codes[known == _UNSEEN]).tolist():
            _DISPUTED[code] = code == 0x295 or unicodedata.category(chr(code)) == "Cn"
        known = _DISPUTED[codes]
    return known.astype(np.int64)


def _byte_mask(
    done: _Ids, sizes: NDArray[np.int64], texts: Sequence[str], spans: Sequence[Spans]
) -> NDArray[np.bool_] | None:
    """Which tokens hold a byte of a span; None when the tokens' bytes are not those of the texts, one for one."""
    text_sizes = np.array([len(t) if t.isascii() else len(t.encode()) for t in texts], dtype=np.int64)
    if not np.array_equal(sums(sizes, done.lengths), text_sizes):
        return None
    begins: list[int] = []
    ends: list[int] = []
    for text, base, its in zip(texts, starts_of(text_sizes).tolist(), spans, strict=True):
        plain = text.isascii()
        for start, end in its:
            begins.append(base + (start if plain else len(text[:start].encode())))
            ends.append(base + (end if plain else len(text[:end].encode())))
    token_ends = np.cumsum(sizes)
    token_starts = token_ends - sizes
    # The first token that ends after a span begins, up to the first that begins where it ends.
    first = np.searchsorted(token_ends, begins, side="right")
    last = np.searchsorted(token_starts, ends, side="left")
    edges = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.add.at(edges, first, 1)
    np.add.at(edges, np.maximum(last, first), -1)
    covered: NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
    return covered


def _char_mask(offsets: Sequence[tuple[int, int]], spans: Spans) -> NDArray[np.bool_]:
    """Which tokens hold a character of a span. Tokens without width (trimmed white space) count where they begin."""
    pairs = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = pairs[:, 0], np.maximum(pairs[:, 1], pairs[:, 0] + 1)
    mask = np.zeros(len(pairs), dtype=np.bool_)
    for start, end in spans:
        mask |= (starts < end) & (ends > start)
    return mask


def _concatenated(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
