"""Finding whole words of a list, in any script: one automaton per language, linear in the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.errors import InvalidConfig

ANY = "any"
"""The list that holds for every language."""

# `\b` of every engine is wrong for Indic scripts, whose vowel signs are marks and no word characters: `\b` finds a border in
# the middle of a word. A border is here what is no letter, mark or digit. Scripts without spaces have no borders at all.
_BORDERLESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_BORDER = r"[^\pL\pM\pN]"
_JOINERS = {0x200C: None, 0x200D: None}


def open_words(lists: Mapping[str, Sequence[str]]) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]]:
    """(texts, languages) -> 1.0 where the text has a word of its language's list or of ``any``, else 0.0; float32.

    Case, Unicode form and joiners aside; a phrase may hold spaces. A word inside a longer word does not count, except in
    scripts written without spaces.

    Raises:
        InvalidConfig: an empty word.
    """
    import re2

    options = re2.Options()
    options.never_capture = True
    options.max_mem = 1 << 26

    def one(words: Sequence[str]) -> Any:
        folded = sorted({_fold(word) for word in words})
        if not all(folded):
            raise InvalidConfig("toxicity.words has an empty word: every text would count; remove it")
        alone = re2.compile(f"[{_BORDERLESS}]")
        bare = "|".join(re2.escape(word) for word in folded if alone.search(word))
        bordered = "|".join(re2.escape(word) for word in folded if not alone.search(word))
        parts = [f"(?:^|{_BORDER})(?:{bordered})(?:{_BORDER}|$)"] if bordered else []
        return re2.compile("|".join([*parts, *([bare] if bare else [])]), options)

    every = tuple(lists.get(ANY, ()))
    patterns = {language: one([*words, *every]) for language, words in lists.items() if words or every}
    return partial(_score, patterns)


def _score(patterns: Mapping[str, Any], texts: Sequence[str], languages: Sequence[str]) -> NDArray[np.float32]:
    scores = np.zeros(len(texts), dtype=np.float32)
    every = patterns.get(ANY)
    for index, (text, language) in enumerate(zip(texts, languages, strict=True)):
        pattern = patterns.get(language, every)
        if pattern is not None and pattern.search(_fold(text)):
            scores[index] = 1.0
    return scores


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower().strip()
    return unicodedata.normalize("NFC", text.casefold()).translate(_JOINERS).strip()
