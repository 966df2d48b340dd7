"""A suite as an lm-eval task. Payload side.

A plain ``Task`` over items in memory instead of a YAML task: ``datasets`` would copy every suite into a cache outside
the home, and lm-eval's own prompt building holds one user turn where an item has a whole conversation.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig

from ftplatform.core.errors import PayloadFailed
from ftplatform.core.payload import SuiteSpec
from ftplatform.evaluation.items import Item

# Every Task is first made with an empty config, and warns that it would sample with defaults it never uses.
logging.getLogger("lm_eval.config.task").setLevel(logging.ERROR)

END_OF_TURN = "<|im_end|>"
METRIC = {"multiple_choice": "acc", "exact_match": "exact_match"}


class SuiteTask(Task):
    VERSION = 1

    def __init__(self, suite: SuiteSpec, items: list[Item]) -> None:
        self.OUTPUT_TYPE = "multiple_choice" if suite.kind == "multiple_choice" else "generate_until"
        self._items = [item.model_dump(mode="json") for item in items]
        self._max_new_tokens = suite.max_new_tokens
        self._metric = METRIC[suite.kind]
        super().__init__()
        # Set here because lm-eval 0.4.13's Task hands a config dict to TaskConfig as the task's name.
        self._config = TaskConfig(
            task=suite.name, output_type=self.OUTPUT_TYPE, num_fewshot=0, generation_kwargs=self._generation()
        )

    def _generation(self) -> dict[str, Any] | None:
        if self.OUTPUT_TYPE == "multiple_choice":
            return None
        return {"until": [END_OF_TURN], "max_gen_toks": self._max_new_tokens}

    def download(self, *_: Any, **__: Any) -> None:
        """Nothing to fetch: the items came from the store."""

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return self._items

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        return str(doc["messages"][-1]["content"])

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        return str(doc["reference"] if doc["choices"] is None else doc["choices"][doc["answer"]])

    def doc_to_prefix(self, doc: dict[str, Any]) -> None:
        return None

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, chat_template: Any = None, **_: Any) -> str:
        return str(chat_template(doc["messages"]))

    def construct_requests(self, doc: dict[str, Any], ctx: str, metadata: Any = None, **_: Any) -> list[Instance]:
        if doc["choices"] is None:
            arguments: list[tuple[Any, ...]] = [(ctx, self._generation())]
            request_type = "generate_until"
        else:
            arguments = [(ctx, choice) for choice in doc["choices"]]
            request_type = "loglikelihood"
        return [
            Instance(request_type=request_type, doc=doc, arguments=argument, idx=index, metadata=metadata)
            for index, argument in enumerate(arguments)
        ]

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        if doc["choices"] is None:
            return {self._metric: float(results[0].strip() == doc["reference"].strip())}
        log_probabilities = [log_probability for log_probability, _ in results]
        if not all(map(math.isfinite, log_probabilities)):
            raise PayloadFailed(
                f"item {doc['id']!r}: log-probabilities {log_probabilities} are not finite, so the model's weights "
                "are damaged; train again, a retry of the evaluation does not help"
            )
        best = max(range(len(log_probabilities)), key=log_probabilities.__getitem__)
        return {self._metric: float(best == doc["answer"])}

    def aggregation(self) -> dict[str, Any]:
        return {self._metric: lambda values: sum(values) / len(values)}

    def higher_is_better(self) -> dict[str, bool]:
        return {self._metric: True}
