"""A transformers text classifier in a folder, as a score from 0 to 1: how sure it is that a text is not harmless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.errors import InvalidConfig

LONGEST = 512
"""Tokens read of a text; the rest is not scored."""
_BATCH = 32
_HARMLESS = {
    "neutral", "normal", "none", "clean", "safe", "ok", "negative", "nontoxic", "nottoxic", "nothate", "nonhate", "nothatespeech",
    "notoffensive", "nonoffensive", "noabuse", "notabusive", "label0", "0",
}  # fmt: skip
"""Names published classifiers give to their harmless label, in lower case without ``_``, ``-`` and spaces."""


def open_classifier(folder: Path, setting: str) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Texts -> scores, float32: one minus the probability of the harmless labels, or the highest of independent labels.

    Needs torch and transformers on the machine that curates; nothing is downloaded, no code of the folder is run, and
    weights are safetensors only.

    Raises:
        InvalidConfig: ``setting`` names no folder, one that cannot be opened, or one whose labels say nothing.
    """
    if not (folder / "config.json").is_file():
        raise InvalidConfig(
            f"{setting} is {str(folder)!r}: no folder with a config.json; accepted is a transformers text classifier"
        )
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        raise InvalidConfig(
            f"{setting} is a model's folder, which needs torch and transformers here: {error}"
        ) from error
    strict: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **strict)
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, **strict).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidConfig(
            f"{setting} is {str(folder)!r}, which cannot be opened as a text classifier: {error}"
        ) from error

    labels = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    harmless = [
        i for i, label in enumerate(labels) if label.lower().translate({ord(c): None for c in "_- "}) in _HARMLESS
    ]
    harmful = [i for i in range(len(labels)) if i not in harmless]
    independent = len(labels) == 1 or model.config.problem_type == "multi_label_classification"
    if not harmful or not (harmless or independent):
        raise InvalidConfig(
            f"{setting} has the labels {labels}: accepted is one that means harmless ({', '.join(sorted(_HARMLESS))}) beside "
            "others, a single label, or problem_type multi_label_classification"
        )
    longest = min(LONGEST, tokenizer.model_max_length)

    def score(texts: Sequence[str]) -> NDArray[np.float32]:
        scores = np.zeros(len(texts), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                part = order[start : start + _BATCH]
                inputs = tokenizer(
                    [texts[i] for i in part], truncation=True, max_length=longest, padding=True, return_tensors="pt"
                )
                logits = model(**inputs).logits.float()
                found = (
                    logits.sigmoid()[:, harmful].amax(1) if independent else 1 - logits.softmax(1)[:, harmless].sum(1)
                )
                scores[part] = found.numpy()
        return scores

    return score
