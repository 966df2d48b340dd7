"""Graders: how an answer becomes a number. The first three follow OpenAI's grader objects."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ftplatform.core.frozen import Frozen
from ftplatform.core.ids import DatasetKey


class _Grader(Frozen):
    weight: float = 1.0


class _Compared(_Grader):
    input: str = "{{sample.output_text}}"
    reference: str
    """Template as well: ``{{item.x}}`` is the field ``x`` of the prompt's ``extra``."""


class StringCheck(_Compared):
    """1 or 0: equal, not equal, contained (``like``), contained whatever the case (``ilike``)."""

    type: Literal["string_check"] = "string_check"
    operation: Literal["eq", "ne", "like", "ilike"] = "eq"


class TextSimilarity(_Compared):
    """0 to 1: share of matching characters, or F1 of words (``rouge_1``) or of the longest common subsequence."""

    type: Literal["text_similarity"] = "text_similarity"
    evaluation_metric: Literal["fuzzy_match", "rouge_1", "rouge_l"] = "fuzzy_match"


class PythonGrader(_Grader):
    """``function(sample, item) -> float`` by its name in the entry point group ``ftplatform.rewards``."""

    type: Literal["python"] = "python"
    name: str


class RewardModelGrader(_Grader):
    """The score of a trained reward model; its vocabulary is the policy's."""

    type: Literal["reward_model"] = "reward_model"
    dataset: str | None = None
    """``tenant/name``: the reward model promoted for that dataset; the plan pins which."""
    weights: str | None = None
    """Digest of its weights, as the ``adapter`` asset shows it; with ``dataset`` the plan fills it in."""
    base_weights: str | None = None
    """Digest of the base of a reward model trained as an adapter; None: the policy's own base."""
    kind: Literal["lora", "full"] = "lora"

    @model_validator(mode="after")
    def _is_named(self) -> RewardModelGrader:
        if self.dataset is None and self.weights is None:
            raise ValueError("a reward model is named by `dataset` (tenant/name) or by `weights` (a digest)")
        if self.dataset is not None:
            DatasetKey.parse(self.dataset)
        return self


Grader = Annotated[StringCheck | TextSimilarity | PythonGrader | RewardModelGrader, Field(discriminator="type")]
