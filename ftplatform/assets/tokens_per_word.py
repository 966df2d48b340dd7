"""What each language of a dataset costs with the recipe's base model, and which other base would do better."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from itertools import islice
from typing import Any

from ftplatform.core.checks import CheckResult
from ftplatform.core.ids import BaseKey
from ftplatform.core.manifests import BaseModel
from ftplatform.core.plan import Plan
from ftplatform.data.blocks import read_rows
from ftplatform.data.language.detect import UNDETERMINED
from ftplatform.data.language.fertility import Fertility, check_fertility, fertility
from ftplatform.data.tokens.base_text import tree_digest
from ftplatform.data.tokens.tokenize import open_tokenizer
from ftplatform.resources.jobs import latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.store.cache import cache_key, cached, code_digest

LIMIT = 2.0
"""Times the tokens per word of English from which a language is warned about."""
SAMPLED_ROWS = 2000
SAMPLED_CHARACTERS = 4000
"""Of each row: with the rows above at most 8 MB of text, a second or two per tokenizer."""
COMPARED = 8
"""Other tokenizers tried where a language is costly, those of the bases registered last."""


def check_tokens_per_word(parts: Parts, plan: Plan) -> CheckResult:
    """A warning for languages that take more than ``LIMIT`` times the tokens per word of English, with better bases by name.

    Measured on training rows at equal distances, by their tag ``language``. What was measured is kept by (rows, tokenizer), so a
    base that was registered since is compared without any row being read twice for the others.
    """
    split, rows = plan.curated.splits["train"], plan.curated.rows["train"]
    ours = tree_digest(parts.store, plan.base.weights, "tokenizer.json")
    found = _measured(parts, split, rows, ours)
    check = check_fertility(found, LIMIT)
    if check.passed:
        return check
    others = {base: _measured(parts, split, rows, digest) for base, digest in _others(parts, ours).items()}
    return check_fertility(found, LIMIT, others)


def _others(parts: Parts, ours: str) -> dict[str, str]:
    """Tokenizers of the newest made revision of other bases, by slug: each tokenizer once, and never ``ours``."""
    found: dict[str, str] = {}
    for row in reversed(parts.catalog.bases.all()):
        key = BaseKey.parse(row["base"])
        document = parts.store.find_doc(latest_doc("base_model", str(key))) if key.slug not in found else None
        if document is None:
            continue
        weights = BaseModel.model_validate(document["manifest"]).weights
        digest = tree_digest(parts.store, weights, "tokenizer.json")
        if digest != ours and digest not in found.values():
            found[key.slug] = digest
        if len(found) == COMPARED:
            break
    return found


def _measured(parts: Parts, split: str, rows: int, tokenizer: str) -> list[Fertility]:
    """``tokenizer`` is the digest of a tokenizer.json, ``split`` that of canonical rows."""
    inputs = {"rows": split, "tokenizer": tokenizer, "sample": [SAMPLED_ROWS, SAMPLED_CHARACTERS]}
    key = cache_key("fertility", code=code_digest("data/language/fertility"), inputs=inputs)

    def work() -> list[dict[str, Any]]:
        texts = _texts(parts, split, rows)
        return [asdict(one) for one in fertility(texts, open_tokenizer(parts.store.get_bytes(tokenizer)))]

    return [Fertility(**one) for one in cached(parts.store, "fertility", key, work)[0]]


def _texts(parts: Parts, split: str, rows: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    step = max(1, rows // SAMPLED_ROWS)
    for row in islice(read_rows(parts.store.path(split)), 0, step * SAMPLED_ROWS, step):
        found[row.tags.get("language", UNDETERMINED)].append("\n".join(row.contents())[:SAMPLED_CHARACTERS])
    return found
