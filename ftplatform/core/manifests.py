"""What passes between assets: small frozen values that name bytes in the store by digest.

A manifest's ``content_digest`` is the asset's data version, so it holds only what was made: no times, no job ids, no paths. What
varies between two runs that made the same thing (seconds, money, attempts) goes to metadata and to the catalog.
"""

from __future__ import annotations

from typing import Literal

from ftplatform.core.frozen import Frozen


class SourceFile(Frozen):
    name: str
    digest: str
    size: int


class RawDataset(Frozen):
    dataset: str
    files: tuple[SourceFile, ...]
    format: str
    """The format that was detected or asked for."""
    rows: int
    bad_rows: int
    report: str
    """Object: JSONL of every finding."""
    page: str
    """Object: the report as an HTML page."""
    canonical: str
    """Object: JSONL of the accepted rows in canonical form, in upload order."""
    validation_canonical: str | None
    """Object: the same for the customer's own validation files."""
    test_canonical: str | None
    """Object: the same for the customer's own test files."""
    config: str
    """Object: dataset.yaml as JSON with every default filled in."""


class CuratedDataset(Frozen):
    dataset: str
    splits: dict[str, str]
    """Object per split: JSONL of canonical rows."""
    rows: dict[str, int]
    config: str
    removed: dict[str, int]
    """Rows dropped, by reason."""
    pii: dict[str, int]
    """Findings replaced, by entity."""


class SyntheticRows(Frozen):
    dataset: str
    teacher: str
    kind: Literal["paraphrase", "generate"]
    seeds: int
    calls: int
    rows: int
    dropped: dict[str, int]
    """Answers that became no row, by reason."""
    file: str
    """Object: the rows as an openai-chat file."""
    failures: str
    """Object: JSONL of {call, seed, reason, found}."""


class BaseModel(Frozen):
    slug: str
    revision: str
    weights: str
    """Tree: an ordinary Hugging Face folder (safetensors, tokenizer, config, chat template)."""
    replay: str | None
    """Object: JSONL of canonical general rows; None when the base came without any."""
    parameters: int
    architecture: str
    max_length: int
    vocabulary: int

    @property
    def key(self) -> str:
        return f"{self.slug}@{self.revision}"


class SuiteScore(Frozen):
    suite: str
    n: int
    score: float
    items: str
    """Object: JSON {suite, n, score, too_long, items: [{id, score, output?}]}, the items in the suite's order."""


class BaseScores(Frozen):
    base: str
    weights: str
    scores: tuple[SuiteScore, ...]


class Baseline(Frozen):
    """The base model on the dataset's held-out rows before any training; scores are shares of items right."""

    base: str
    asked: int
    """Rows asked both ways; 0 where the base was not asked."""
    score: float = 0.0
    """Plainly asked."""
    few_shot: float | None = None
    """With examples of the training split in front of each question; None where none fits the base's context."""
    examples: int = 0
    target: float


class TokenizedShards(Frozen):
    layout: Literal["sft", "text", "preference", "kto", "prompts"]
    """What a file holds; see ``data/tokens/shards.py`` for the tensors."""
    shards: dict[str, tuple[str, ...]]
    """Objects per split (train, validation), in order: safetensors files of bounded size."""
    sequences: dict[str, int]
    tokens: dict[str, int]
    supervised: dict[str, int]
    """Tokens that carry loss."""
    dropped: dict[str, int]
    """Rows left out because they were too long."""
    max_length: int
    template: str
    """Digest of the chat template that rendered the rows; serving compares it."""
    tokenizer: str


class Adapter(Frozen):
    kind: Literal["lora", "full"]
    weights: str
    """Tree: PEFT adapter folder, or a Hugging Face folder for full weights."""
    base: str
    base_weights: str
    steps: int
    tokens: int
    final_loss: float
    template: str
    parent: str | None = None
    """Tree of the adapter or full weights that training started from; None for the base."""
    fingerprint: str
    """Object: log-probabilities of a fixed probe, with which an engine proves it serves these weights."""


class Comparison(Frozen):
    """Candidate against one reference on one suite; scores are shares of items right."""

    suite: str
    reference: Literal["base", "champion"]
    n: int
    discordant: int
    """Items that exactly one of the two got right; only these carry information."""
    reference_score: float
    candidate_score: float
    difference: float
    lower: float
    upper: float
    margin: float
    smallest_visible_drop: float
    outcome: Literal["non-inferior", "regression", "insufficient"]


class EvalReport(Frozen):
    adapter: str
    """Digest of the adapter's weights: the bytes this verdict is about."""
    dataset: str
    comparisons: tuple[Comparison, ...]
    scores: dict[str, dict[str, SuiteScore]]
    """model (base, champion, candidate) -> suite -> score."""
    slices: dict[str, dict[str, float]]
    """suite/tag=value -> model -> score."""
    verdict: Literal["promote", "quarantine"]
    reasons: tuple[str, ...]


class RegistryEntry(Frozen):
    model: str
    """Registered model, ``tenant.dataset``."""
    version: int
    adapter: str
    verdict: Literal["promote", "quarantine"]
    report: str
    champion: bool
    """Whether this version was made the champion."""
    served_name: str
    answers: bool = True
    """Whether an engine serves it; a reward model is used by the policies that learn from it."""


class Deployment(Frozen):
    model: str
    version: int
    action: Literal["deployed", "none"]
    """``none`` is the recorded no-op of a quarantined candidate."""
    served_name: str
    adapter: str
