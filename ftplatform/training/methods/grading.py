"""Graders at work: the reward of an answer from its text, its tokens and what stood beside its prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from importlib.metadata import entry_points
from typing import Any

import torch

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.graders import Grader, PythonGrader, RewardModelGrader, StringCheck, TextSimilarity
from ftplatform.training.methods.base import Work
from ftplatform.training.methods.reward import ScoreAtEnd, load_reward_model

GROUP = "ftplatform.rewards"
_FIELD = re.compile(r"\{\{\s*(item|sample)\.([\w.]+)\s*\}\}")


class Answer:
    """One answer: ``text`` without stop tokens, ``ids`` of prompt and answer, ``item`` the prompt's ``extra``."""

    __slots__ = ("ids", "item", "text")

    def __init__(self, text: str, ids: torch.Tensor, item: dict[str, Any]) -> None:
        self.text, self.ids, self.item = text, ids, item


Score = Callable[[Sequence[Answer]], list[float]]


def fill(template: str, answer: Answer) -> str:
    """The template with ``{{sample.output_text}}`` and ``{{item.x}}`` filled in.

    Raises:
        InvalidConfig: a field that the prompt has not.
    """

    def one(match: re.Match[str]) -> str:
        found: Any = {"output_text": answer.text} if match[1] == "sample" else answer.item
        for name in match[2].split("."):
            if not isinstance(found, dict) or name not in found:
                raise InvalidConfig(
                    f"a grader reads {match[0]}, which a prompt has not: its fields are {', '.join(answer.item) or 'none'}. "
                    "Add the field to every row or change the grader; a retry does not help"
                )
            found = found[name]
        return str(found)

    return _FIELD.sub(one, template)


def string_check(operation: str, text: str, reference: str) -> float:
    if operation in ("like", "ilike"):
        fold = str.casefold if operation == "ilike" else str
        return float(fold(reference) in fold(text))
    return float((text == reference) == (operation == "eq"))


def text_similarity(metric: str, text: str, reference: str) -> float:
    """0 to 1; ROUGE as F1 over words (Lin 2004), without stemming."""
    if metric == "fuzzy_match":
        return SequenceMatcher(None, text, reference, autojunk=False).ratio()
    ours, theirs = text.casefold().split(), reference.casefold().split()
    if not ours or not theirs:
        return float(ours == theirs)
    if metric == "rouge_1":
        common = sum((Counter(ours) & Counter(theirs)).values())
    else:
        row = [0] * (len(theirs) + 1)
        for word in ours:
            before = row
            row = [0]
            for place, other in enumerate(theirs):
                row.append(before[place] + 1 if word == other else max(before[place + 1], row[-1]))
        common = row[-1]
    return 2 * common / (len(ours) + len(theirs))


def open_graders(graders: Sequence[Grader], work: Work, device: torch.device, vocabulary: int) -> Score:
    """The weighted sum of all graders, per answer.

    Raises:
        InvalidConfig: a Python function that is not installed, or a reward model of another vocabulary.
    """
    scores = [(one.weight, _open(one, work, device, vocabulary, number)) for number, one in enumerate(graders)]

    def total(answers: Sequence[Answer]) -> list[float]:
        columns = [[weight * value for value in score(answers)] for weight, score in scores]
        return [sum(values) for values in zip(*columns, strict=True)]

    return total


def _open(grader: Grader, work: Work, device: torch.device, vocabulary: int, number: int) -> Score:
    if isinstance(grader, StringCheck):
        return lambda answers: [
            string_check(grader.operation, fill(grader.input, a), fill(grader.reference, a)) for a in answers
        ]
    if isinstance(grader, TextSimilarity):
        return lambda answers: [
            text_similarity(grader.evaluation_metric, fill(grader.input, a), fill(grader.reference, a)) for a in answers
        ]
    if isinstance(grader, PythonGrader):
        function = _function(grader.name)
        return lambda answers: [float(function({"output_text": a.text}, a.item)) for a in answers]
    return _reward_model(grader, work, device, vocabulary, number)


def _function(name: str) -> Callable[[dict[str, Any], dict[str, Any]], float]:
    for point in entry_points(group=GROUP, name=name):
        function: Callable[[dict[str, Any], dict[str, Any]], float] = point.load()
        return function
    known = sorted(point.name for point in entry_points(group=GROUP))
    raise InvalidConfig(
        f"there is no Python grader {name!r} in the entry point group {GROUP}: installed are {', '.join(known) or 'none'}. "
        "Install its package into the training image; a retry does not help"
    )


def _reward_model(grader: RewardModelGrader, work: Work, device: torch.device, vocabulary: int, number: int) -> Score:
    if grader.weights is None:
        raise InvalidConfig(
            f"the grader names the reward model of {grader.dataset}, which no plan pinned: start the training by its line"
        )
    weights = work.store.fetch_tree(grader.weights, work.folder / f"reward-{number}")
    base = work.base
    if grader.base_weights and grader.kind == "lora":
        base = work.store.fetch_tree(grader.base_weights, work.folder / f"reward-{number}-base")
    model = load_reward_model(base, weights, grader.kind).requires_grad_(False).to(device)
    if (found := model.get_input_embeddings().num_embeddings) != vocabulary:
        raise InvalidConfig(
            f"the reward model has {found} tokens, the policy {vocabulary}: accepted is the same tokenizer"
        )

    def score(answers: Sequence[Answer]) -> list[float]:
        lengths = torch.tensor([len(a.ids) for a in answers])
        ids = torch.zeros((len(answers), int(lengths.max())), dtype=torch.int64)
        for row, answer in zip(ids, answers, strict=True):
            row[: len(answer.ids)] = answer.ids
        with torch.no_grad(), ScoreAtEnd(model) as head:
            values: list[float] = head.score(model, ids.to(device), lengths.to(device)).tolist()
        return values

    return score
