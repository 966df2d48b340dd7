"""Rates of the per-row text stages: Unicode policy, language and script, toxicity, tags.

    python -m bench.data.language

CPU seconds of one process over rows of about 200 characters; the best of three passes. The texts are made from a fixed seed in
each language's own words; no two are the same.
"""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent.parent / "results" / "data_language.md"
ROWS = 10_000
BLOCK = 2_000

WORDS = {
    "English": "where is my order placed two weeks ago and nobody answers please check when it will arrive thank you very much (today)",
    "Hindi": "मेरा ऑर्डर कहाँ है दो सप्ताह पहले दिया था और कोई जवाब नहीं मिला कृपया देखें कब तक पहुँचेगा धन्यवाद",
    "Hinglish": "mera order kahan hai do hafte pehle diya tha aur koi jawab nahi mila please check karo kab tak aayega thanks",
    "French": "où est ma commande passée il y a déjà deux semaines et personne ne répond merci de vérifier quand elle arrivera",
    "Persian with joiners": "سفارش من کجاست دو هفته است که منتظر هستم و هیچ پاسخی نمی‌دهند لطفاً بررسی کنید چه زمانی می‌رسد",
    "code with a question": "why does this fail\nfor name in names:\n    print(name[0])\nvalue = {'a': 1}\nplease explain the error to me",
}


def texts_of(words: str) -> list[str]:
    draw, pool = random.Random(3), words.split(" ")
    return [" ".join(draw.choices(pool, k=max(1, 200 * len(pool) // len(words)))) for _ in range(ROWS)]


def rate(work: Callable[[Sequence[Any]], object], items: Sequence[Any]) -> float:
    """Items per CPU second, in blocks as the pipeline has them."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for first in range(0, len(items), BLOCK):
            work(items[first : first + BLOCK])
        best = min(best, time.process_time() - start)
    return len(items) / best


def main() -> None:
    from ftplatform.core.dataset_config import TaggingConfig, TagRule, ToxicityConfig, UnicodeConfig
    from ftplatform.core.rows import Message, Row
    from ftplatform.data.language.detect import detect
    from ftplatform.data.language.tagging import open_tagger
    from ftplatform.data.language.toxicity import open_toxicity
    from ftplatform.data.language.unicode_text import clean_row, clean_text

    unicode = UnicodeConfig()
    start = time.process_time()
    toxicity = open_toxicity(ToxicityConfig(policy="flag"))
    opened = time.process_time() - start
    words = open_toxicity(
        ToxicityConfig(policy="flag", model="words", words={"any": tuple(f"badword{i}" for i in range(500))})
    )
    rules = tuple(TagRule(tag=f"tag{i}", value="x", pattern=f"(?i)rule{i}|nothing{i}") for i in range(10))
    tagger = open_tagger(TaggingConfig(rules=rules))
    assert toxicity is not None
    assert words is not None

    def both(texts: Sequence[str]) -> None:
        detect([clean_text(text, unicode)[0] for text in texts])

    lines = ["| texts | characters | Unicode | language and script | both |", "|---|---|---|---|---|"]
    for name, pool in WORDS.items():
        texts = texts_of(pool)
        assert len(set(texts)) == len(texts)
        cleaned = rate(lambda part: [clean_text(text, unicode) for text in part], texts)
        lines.append(
            f"| {name} | {sum(map(len, texts)) // len(texts)} | {cleaned:,.0f} | {rate(detect, texts):,.0f} | {rate(both, texts):,.0f} |"
        )
    english = texts_of(WORDS["English"])
    rows = [
        Row((Message("user", text), Message("assistant", "It is on its way.")), f"f:{i}")
        for i, text in enumerate(english)
    ]
    others = [
        ("Unicode, a row of two turns", rate(lambda part: [clean_row(row, unicode) for row in part], rows)),
        ("toxicity, shipped classifier", rate(lambda part: toxicity(part, ["en"] * len(part)), english)),
        ("toxicity, a list of 500 words", rate(lambda part: words(part, ["en"] * len(part)), english)),
        ("tags, ten rules without a match", rate(tagger, rows)),
    ]
    report = [
        "# Language, script, Unicode, toxicity and tags",
        "",
        f"{date.today()}, one process, {platform.machine()}, Python {platform.python_version()}, load average at the end {os.getloadavg()[0]:.1f}. Made by "
        "`python -m bench.data.language`. Texts per CPU second, best of three; the machine is shared and noisy.",
        "",
        *lines,
        "",
        "| stage, English | per CPU second |",
        "|---|---|",
        *(f"| {name} | {value:,.0f} |" for name, value in others),
        "",
        f"Opening the shipped toxicity classifier takes {opened:.1f} CPU seconds per process (scikit-learn's import).",
    ]
    RESULT.write_text("\n".join(report) + "\n")
    print("\n".join(report))


if __name__ == "__main__":
    main()
