"""The language of each text: CLD2 decides, the script corrects it, and code is not taken for English."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ftplatform.data.language.scripts import SCRIPTS, letter_counts, shares

UNDETERMINED = "und"
"""ISO 639's code for a text whose language cannot be said."""

_SAMPLE = 12_000
"""Characters looked at: the beginning, the middle and the end of a longer text, a third each."""
_CODE_SHARE = 0.04
"""Code symbols per letter from which the lines of code are taken out first; prose has about 0.01."""

# CLD2's own codes where they differ from today's ISO 639. It finds Scots almost only in short English.
_ISO = {
    "iw": "he",
    "jw": "jv",
    "in": "id",
    "zh-Hant": "zh",
    "no": "nb",
    "sco": "en",
    "un": UNDETERMINED,
    "xxx": UNDETERMINED,
}

_ONLY = {
    "Armenian": "hy", "Georgian": "ka", "Greek": "el", "Gujarati": "gu", "Gurmukhi": "pa", "Hangul": "ko", "Hebrew": "he",
    "Hiragana": "ja", "Kannada": "kn", "Katakana": "ja", "Khmer": "km", "Lao": "lo", "Malayalam": "ml", "Meetei Mayek": "mni",
    "Myanmar": "my", "Ol Chiki": "sat", "Oriya": "or", "Sinhala": "si", "Tamil": "ta", "Telugu": "te", "Thaana": "dv", "Thai": "th",
}  # fmt: skip
"""Scripts that in practice write one language: a word of them is enough."""
_SHARED = {
    "Bengali": {"bn", "as", "mni"},
    "Devanagari": {"hi", "mr", "ne", "sa", "bh", "bho", "mai", "kok"},
    "Han": {"zh", "ja"},
}
"""Scripts of few languages: a guess of CLD2 that can be written in the script is believed, with half the confidence.

Its guesses between the many languages of the Latin, Arabic and Cyrillic scripts are wrong too often (a Russian question of
seven words was Serbian), so they are left undetermined.
"""

_TYPED_HINDI = (
    "aap aapka aapke aapki abhi acha accha achha apna apne apni aaya aayega aayegi aur bahut bataye batao bhai bhi chahiye chahie "
    "dijiye diya gaya gayi gaye haan hai hain hoga hogi hona hoon hua hui humein hume hamara isme iska iske kaise kaisa kab "
    "kahan kaha karna karne karo karu karke karein karta karte karti khata kijiye kitna kitne kiya kripya kuch kya kyu kyun kyunki "
    "lekin liye madad magar mein mera mere meri mujhe mujhko nahi nahin nhi paise paisa raha rahe rahi rha rhe rhi sakta sakte sakti "
    "samajh sirf tera teri tha thi toh tumhara unka uska uske wapas wala wale wali woh wahan yahan yaar yeh zaroor"
)
_ROMAN_HINDI = frozenset(_TYPED_HINDI.split())
"""Frequent Hindi words as they are typed in Latin letters, without those that are words of English too."""

_FENCED = re.compile(r"^(```|~~~).*?(?:^\1\s*$|\Z)", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`[^`\n]+`|\b\w{1,12}://\S+|</?[A-Za-z][^<>\n]*>")
_CODE_START = re.compile(
    r"(?:def|class|function|fn|func|public|private|protected|static|const|let|var|async|impl|struct|enum|package|namespace)\b.*[:={(;]"
    r"|import [\w.*]+|from [\w.]+ import\b|#include\b|#!|@\w+|return\b.*[;)\]}]$|return [\w.]+$"
    r"|(?:if|elif|for|while|with|try|except|else)\b.*[:{]$|[$>] |(?:pip|npm|git|docker|kubectl|sudo|curl|cd|ls) [\w./-]|[\w.\[\]]+ ?[-+*/]?= ?\S"
    r"|(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|WITH)\b.*\b(?:FROM|SET|VALUES|TABLE|INDEX|VIEW|AS|WHERE)\b"
)
_CALL = re.compile(r"\w\(")
_SYMBOL = re.compile(r"[{}\[\]()<>=;_\\|&*+$#^~%\"':,]")
_NOT_TEXT = re.compile(
    "[^\t\n\r -~\u00a0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0001fffd\U00020000-\U0002fffd\U00030000-\U0003fffd]"
)


@dataclass(frozen=True, slots=True)
class Detected:
    """What is said about one text."""

    language: str
    """ISO 639-1 (ISO 639-3 where a language has no shorter code), or ``und``."""
    confidence: float
    """Share of the text that CLD2 gives to the language; halved for a guess; 0 for ``und``."""
    scripts: dict[str, float]
    """Share of the letters per script, largest first: ``{"Devanagari": 0.71, "Latin": 0.29}``. Empty without letters."""


def detect(texts: Sequence[str]) -> list[Detected]:
    """The language of each text, in order; the same answer for the same text whatever stands beside it.

    Fenced code, and lines that look like code, are left out, so a question with a program in it has the language of the
    question and a program alone has none. Hindi in Latin letters is ``hi`` with the script Latin; no other romanised
    language is recognised. Code-mixed text has the language of its larger part.
    """
    samples = [text if len(text) <= _SAMPLE else _sample(text) for text in texts]
    letters, symbols = letter_counts(samples)
    looks_like_code = (symbols > _CODE_SHARE * letters.sum(axis=1)).nonzero()[0].tolist()
    spoken = letters.copy()
    for index in looks_like_code:
        samples[index] = _prose(samples[index])
    spoken[looks_like_code] = letter_counts([samples[index] for index in looks_like_code])[0]
    return [
        Detected(*_language(sample, said), written)
        for sample, said, written in zip(samples, spoken.tolist(), shares(letters), strict=True)
    ]


def _language(text: str, letters: list[int]) -> tuple[str, float]:
    total = sum(letters)
    if total < 2:
        return UNDETERMINED, 0.0
    language, share, reliable = _cld2(text, False)
    if language == "en" or not reliable:
        hindi = _roman_hindi(text)
        if hindi:
            return "hi", hindi
    if reliable and language != UNDETERMINED:
        return language, share
    count, script = _written_in(letters, total)
    if script in _ONLY:
        return _ONLY[script], round(count / total / 2, 2)
    guess, share, _ = _cld2(text, True)
    if guess in _SHARED.get(script, ()):
        return guess, round(share / 2, 2)
    return UNDETERMINED, 0.0


def _written_in(letters: list[int], total: int) -> tuple[int, str]:
    """(letters, script) that says most about the language: Latin only where no other script has a quarter of the letters."""
    latin = SCRIPTS.index("Latin")
    count, column = max((count, -index) for index, count in enumerate(letters) if index != latin)
    return (count, SCRIPTS[-column]) if 4 * count >= total else (letters[latin], "Latin")


def _cld2(text: str, guess: bool) -> tuple[str, float, bool]:
    """(language, share of the text, reliable). CLD2 refuses control characters, noncharacters and lone surrogates."""
    import pycld2

    try:
        reliable, _, found = pycld2.detect(text, isPlainText=True, bestEffort=guess)
    except (pycld2.error, UnicodeEncodeError):
        reliable, _, found = pycld2.detect(_NOT_TEXT.sub(" ", text), isPlainText=True, bestEffort=guess)
    code = found[0][1]
    language = UNDETERMINED if code.startswith(("xx", "zz")) else _ISO.get(code, code)
    return language, found[0][2] / 100, reliable


def _roman_hindi(text: str) -> float:
    """How sure it is that the text is Hindi in Latin letters, 0 when it is not: two words of the list, and one word in six."""
    words = text.lower().split()
    if _ROMAN_HINDI.isdisjoint(words):
        return 0.0
    words = re.findall(r"[a-z]+", text.lower())
    hits = [word for word in words if word in _ROMAN_HINDI]
    if len(set(hits)) < 2 or 6 * len(hits) < len(words):
        return 0.0
    return round(min(0.9, 2 * len(hits) / len(words)), 2)


def _prose(text: str) -> str:
    """The text without its code: fenced blocks, inline code, markup, addresses, and lines that look like code or data."""
    text = _INLINE.sub(" ", _FENCED.sub("\n", text))
    return "\n".join(line for line in text.split("\n") if not _is_code(line))


def _is_code(line: str) -> bool:
    line = line.strip()
    if line.endswith((";", "{", "}")) or (line.endswith(")") and _CALL.search(line)):
        return True
    return bool(_CODE_START.match(line)) or 8 * len(_SYMBOL.findall(line)) > len(line)


def _sample(text: str) -> str:
    part, middle = _SAMPLE // 3, len(text) // 2
    return f"{text[:part]}\n{text[middle - part // 2 : middle + part // 2]}\n{text[-part:]}"
