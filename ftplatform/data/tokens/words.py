"""The words of a byte-level BPE tokenizer and their tokens: what repeats is encoded once."""

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

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of a ByteLevel pre-tokenizer that brings none (`tokenizers`, pre_tokenizers/byte_level.rs)."""
_MOST_WORDS = 300_000
"""Words kept, about 60 MB; a table that grew beyond is begun anew at the next call."""


@dataclass(frozen=True, slots=True)
class Ids:
    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]


class Words:
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

    def encode(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
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
        return Ids(ids[token], sums(in_piece[piece], per_text)), sizes[token]

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


def words_of(tokenizer: Tokenizer) -> Words | None:
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
    return Words(tokenizer, pattern, {token["content"]: token["id"] for token in added}, normalizer == "NFC")


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
