"""Tokens per word by language, against English: what a language costs with a tokenizer, in money, length and quality.

A base whose tokenizer spells Tamil letter by letter learns it badly, fills its context early and bills four times the tokens.
The measure is the fertility of Rust et al. (2021), "How Good is Your Tokenizer?", ACL, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplatform.core.checks import CheckResult
from ftplatform.data.language.detect import UNDETERMINED
from ftplatform.data.language.scripts import SCRIPTS, letter_counts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENOUGH_WORDS = 100
"""A language with fewer words is measured but not judged, and English with fewer is read from ``ENGLISH``."""
CLEARLY_BETTER = 0.75
"""A base is named when it needs at most this share of the tokens."""

# Scripts without spaces have no words to count. A word is then this many letters: the letters that stand for one English word
# in translation, as translators convert their prices. A rough figure: it moves the ratio by a fifth, not by a factor of two.
LETTERS_PER_WORD = {
    "Han": 1.7, "Hiragana": 2.2, "Katakana": 2.2, "Thai": 5.0, "Lao": 5.0, "Khmer": 5.0, "Myanmar": 6.0, "Tibetan": 5.0,
}  # fmt: skip

ENGLISH = """Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, and
dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war, testing whether that nation,
or any nation so conceived and so dedicated, can long endure. We are met on a great battle-field of that war. We have come to
dedicate a portion of that field, as a final resting place for those who here gave their lives that that nation might live. It is
altogether fitting and proper that we should do this. But, in a larger sense, we can not dedicate, we can not consecrate, we can
not hallow this ground. The brave men, living and dead, who struggled here, have consecrated it, far above our poor power to add or
detract. The world will little note, nor long remember what we say here, but it can never forget what they did here. It is for us
the living, rather, to be dedicated here to the unfinished work which they who fought here have thus far so nobly advanced."""
"""Lincoln's address at Gettysburg (1863, public domain): the English of a dataset that has none."""


@dataclass(frozen=True, slots=True)
class Fertility:
    language: str
    words: int
    tokens: int
    tokens_per_word: float
    ratio_to_english: float
    """``tokens_per_word`` over that of English with the same tokenizer."""


def fertility(texts_by_language: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> list[Fertility]:
    """Each language's tokens per word, worst ratio first; ``und`` is left out.

    A word is a run of letters, marks, digits and joiners; in scripts without spaces ``LETTERS_PER_WORD`` letters. Tokens are
    those of the whole text, punctuation included, without special tokens. A few hundred texts per language are enough.
    """
    measured = {
        language: (_words(texts), _tokens(texts, tokenizer))
        for language, texts in texts_by_language.items()
        if language != UNDETERMINED and texts
    }
    words, tokens = measured.get("en", (0, 0))
    if words < ENOUGH_WORDS:
        reference = [ENGLISH.replace("\n", " ")]
        words, tokens = _words(reference), _tokens(reference, tokenizer)
    english = tokens / words
    found = [
        Fertility(language, words, tokens, round(tokens / words, 3), round(tokens / words / english, 3))
        for language, (words, tokens) in measured.items()
        if words
    ]
    return sorted(found, key=lambda f: (-f.ratio_to_english, f.language))


def check_fertility(
    found: Sequence[Fertility], limit: float = 2.0, better: Mapping[str, Sequence[Fertility]] | None = None
) -> CheckResult:
    """A warning for languages of ``ENOUGH_WORDS`` words whose ratio is above ``limit``.

    ``better`` holds the same texts measured with other bases' tokenizers. One is named for a language when both its tokens per
    word and its ratio are at most ``CLEARLY_BETTER`` of these: the ratio alone would praise a tokenizer that is bad at English.
    """
    costly = [f for f in found if f.words >= ENOUGH_WORDS and f.ratio_to_english > limit]
    bases = {f.language: _better(f, better or {}) for f in costly}
    told = [
        f"{f.language} takes {f.tokens_per_word:.1f} tokens per word, {f.ratio_to_english:.1f} times English"
        + (
            f" (better: {', '.join(f'{base} {value:.1f}' for base, value in bases[f.language])})"
            if bases[f.language]
            else ""
        )
        for f in costly
    ]
    message = "; ".join(told) or f"{len(found)} languages, none above {limit:g} times the tokens per word of English"
    return CheckResult(
        "tokens_per_word",
        not costly,
        message,
        severity="warning",
        numbers={f"tokens_per_word_{f.language}": f.tokens_per_word for f in found},
        rows=[
            {
                "language": f.language,
                "words": f.words,
                "tokens": f.tokens,
                "tokens_per_word": f.tokens_per_word,
                "ratio_to_english": f.ratio_to_english,
                "better_bases": ", ".join(base for base, _ in bases.get(f.language, [])),
            }
            for f in found
        ],
    )


def _better(here: Fertility, others: Mapping[str, Sequence[Fertility]]) -> list[tuple[str, float]]:
    """(base, tokens per word) of the clearly better ones, best first."""
    found = [
        (base, f.tokens_per_word)
        for base, measured in others.items()
        for f in measured
        if f.language == here.language
        and f.tokens_per_word <= CLEARLY_BETTER * here.tokens_per_word
        and f.ratio_to_english <= CLEARLY_BETTER * here.ratio_to_english
    ]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _words(texts: Sequence[str]) -> int:
    """Words of spaced scripts, and the letters of the others by ``LETTERS_PER_WORD``."""
    import re2

    # Python's own \w leaves out the vowel signs of Indic scripts and would count several words in one. [^\PL...] is RE2's way
    # to say: a letter, but not one of these scripts.
    unspaced = "".join(rf"\p{{{script}}}" for script in LETTERS_PER_WORD)
    part = rf"[^\PL{unspaced}]|[^\PM{unspaced}]|\pN"
    word = re2.compile(rf"(?:{part})(?:{part}|[\x{{200c}}\x{{200d}}'’])*")
    spaced = sum(len(word.findall(text)) for text in texts)
    letters: list[int] = letter_counts(texts)[0].sum(axis=0).tolist()
    return spaced + round(sum(letters[SCRIPTS.index(script)] / size for script, size in LETTERS_PER_WORD.items()))


def _tokens(texts: Sequence[str], tokenizer: Tokenizer) -> int:
    return sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))
