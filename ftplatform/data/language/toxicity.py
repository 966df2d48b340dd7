"""Toxicity: a score per text from a classifier, a word list, or both; what follows from it is the dataset's policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import ToxicityConfig
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Row
from ftplatform.data.language.detect import UNDETERMINED
from ftplatform.data.language.word_lists import open_words
from ftplatform.data.text import SHOWN_ROWS, shorten

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin, TransformerMixin

Scorer = Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]]
"""(texts, their languages) -> scores from 0 to 1, float32, in order."""


@dataclass(frozen=True, slots=True)
class Toxicity:
    """What was found in some rows; blocks add up."""

    rows: int
    toxic: int
    worst: tuple[tuple[float, str, str], ...]
    """(score, source, text shortened) of the rows with the highest scores, at most ``SHOWN_ROWS``."""

    @property
    def rate(self) -> float:
        return self.toxic / self.rows if self.rows else 0.0

    def __add__(self, other: Toxicity) -> Toxicity:
        return Toxicity(self.rows + other.rows, self.toxic + other.toxic, _worst([*self.worst, *other.worst]))


def open_toxicity(config: ToxicityConfig) -> Scorer | None:
    """The scorer the config asks for; None when the policy is ``off``. Opened once per process.

    ``builtin`` scores English, and ASCII texts without a language: it knows no other language, so the others get 0 unless
    a word list has a word of theirs. A model by path scores every text. A word of a list makes the score 1.

    Raises:
        InvalidConfig: nothing to score with (``words`` without lists), a folder that is no classifier, a missing package.
    """
    if config.policy == "off":
        return None
    words = open_words(config.words) if config.words else None
    if config.model == "words":
        if words is None:
            raise InvalidConfig(
                "toxicity.model is words, but toxicity.words has no list: give one, for example {any: [badword]}"
            )
        return words
    if config.model == "builtin":
        model: Scorer = partial(_score_english, *_shipped_model())
    else:
        from ftplatform.data.language.text_classifier import open_classifier

        classify = open_classifier(Path(config.model), "toxicity.model")

        def model(texts: Sequence[str], languages: Sequence[str]) -> NDArray[np.float32]:
            return classify(texts)

    return model if words is None else partial(_higher, model, words)


def score_rows(score: Scorer, rows: Sequence[Row], languages: Sequence[str]) -> NDArray[np.float32]:
    """The highest score of any text of each row, from one batch over the block.

    Message by message: a word in one turn of a long conversation would hardly move the score of the whole.
    """
    texts = [list(row.contents()) for row in rows]
    flat = [text for row in texts for text in row]
    scores = score(flat, [language for row, language in zip(texts, languages, strict=True) for _ in row])
    highest = np.zeros(len(rows), dtype=np.float32)
    np.maximum.at(highest, np.repeat(np.arange(len(rows)), [len(row) for row in texts]), scores)
    return highest


def measure(scores: NDArray[np.float32], texts: Sequence[str], sources: Sequence[str], threshold: float) -> Toxicity:
    """The scores of one block as counts and worst rows."""
    toxic = scores >= threshold
    first = np.argsort(-scores, kind="stable")[:SHOWN_ROWS]
    worst = [(round(float(scores[i]), 3), sources[i], shorten(texts[i])) for i in first if toxic[i]]
    return Toxicity(len(scores), int(toxic.sum()), _worst(worst))


def check_toxicity(found: Toxicity, config: ToxicityConfig) -> CheckResult:
    """``fail`` stops the version above ``max_rate``; ``flag`` and ``drop`` only tell."""
    passed = config.policy != "fail" or found.rate <= config.max_rate
    done = {"drop": "left out", "flag": "tagged toxic"}.get(
        config.policy, f"at most {config.max_rate:.2%} are accepted"
    )
    return CheckResult(
        "toxicity",
        passed,
        f"{found.toxic} of {found.rows} rows ({found.rate:.2%}) score {config.threshold} or more: {done}",
        severity="error" if config.policy == "fail" else "warning",
        numbers={"toxic_rows": found.toxic, "toxic_rate": round(found.rate, 6)},
        rows=[{"score": score, "source": source, "text": text} for score, source, text in found.worst],
    )


def _worst(rows: Sequence[tuple[float, str, str]]) -> tuple[tuple[float, str, str], ...]:
    return tuple(sorted(rows, key=lambda row: (-row[0], row[1]))[:SHOWN_ROWS])


def _higher(first: Scorer, second: Scorer, texts: Sequence[str], languages: Sequence[str]) -> NDArray[np.float32]:
    return np.maximum(first(texts, languages), second(texts, languages))


def _shipped_model() -> tuple[TransformerMixin, ClassifierMixin]:
    """The vectorizer and the calibrated linear SVM inside the wheel of alt-profanity-check.

    They are pickles: another scikit-learn than the one that wrote them warns and may score otherwise, so it is refused.
    """
    from sklearn.exceptions import InconsistentVersionWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        try:
            from profanity_check.profanity_check import model, vectorizer
        except (ImportError, InconsistentVersionWarning) as error:
            raise InvalidConfig(
                f"toxicity.model is builtin, and its model cannot be opened: {error}. Install alt-profanity-check with the "
                "scikit-learn of the same number, or set toxicity.model to words or to a classifier's folder"
            ) from error
    return vectorizer, model


def _score_english(
    vectorizer: TransformerMixin, model: ClassifierMixin, texts: Sequence[str], languages: Sequence[str]
) -> NDArray[np.float32]:
    scores = np.zeros(len(texts), dtype=np.float32)
    known = [
        i
        for i, language in enumerate(languages)
        if language == "en" or (language == UNDETERMINED and texts[i].isascii())
    ]
    if known:
        scores[known] = model.predict_proba(vectorizer.transform([texts[i] for i in known]))[:, 1]
    return scores
