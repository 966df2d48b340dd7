"""Names of people, places and organisations, by a token classifier the tenant's operator put on disk."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ftplatform.core.errors import InvalidConfig
from ftplatform.data.pii.find import Names, Span

LABELS = {
    "PER": "PERSON",
    "PERSON": "PERSON",
    "LOC": "LOCATION",
    "LOCATION": "LOCATION",
    "GPE": "LOCATION",
    "ORG": "ORGANIZATION",
    "ORGANIZATION": "ORGANIZATION",
}
"""The usual data sets' labels, without their ``B-`` and ``I-``."""
LEAST = 0.5
_OVERLAP = 32
"""Tokens two windows of a long text share."""


@cache
def open_names(folder: str) -> Names:
    """Names in a text, by the transformers token classifier in ``folder``. No network, one text at a time: batches are
    padded, and padding changes scores in their last digits, so what is found would depend on the neighbours.

    Raises:
        InvalidConfig: no such folder, or a model without any label of ``LABELS``.
    """
    path = Path(folder)
    wanted = f"accepted is the folder of a transformers token classifier (labels {', '.join(LABELS)})"
    if not (path / "config.json").is_file():
        raise InvalidConfig(f"pii.ner_model: {folder} has no config.json; {wanted}")
    labels = json.loads((path / "config.json").read_text("utf-8")).get("id2label", {})
    if not any(_entity(label) for label in labels.values()):
        raise InvalidConfig(f"pii.ner_model: the labels of {folder} are {sorted(labels.values())}; {wanted}")

    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest:
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    classify: Any = pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple", stride=_OVERLAP
    )

    def names(text: str) -> list[Span]:
        found = classify(text) if text.strip() else []
        return [
            Span(int(f["start"]), int(f["end"]), entity, float(f["score"]))
            for f in found
            if (entity := _entity(f["entity_group"])) and f["score"] >= LEAST and f["end"] > f["start"]
        ]

    return names


def _entity(label: str) -> str | None:
    return LABELS.get(label.upper().removeprefix("B-").removeprefix("I-"))
