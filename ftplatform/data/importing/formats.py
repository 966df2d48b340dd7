"""The formats by name: the keys an example of each has, and which one a file is of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ftplatform.core.dataset_config import Columns
from ftplatform.data.importing import readers
from ftplatform.data.importing.conversation import SHAREGPT, dialect_of
from ftplatform.data.importing.readers import Fields
from ftplatform.data.importing.row_findings import Report
from ftplatform.data.text import shorten

DETECTION_ROWS = 100


@dataclass(frozen=True, slots=True)
class Format:
    required: tuple[tuple[str, ...], ...]
    """Keys an example must have; of several in one place, one."""
    read: Callable[[dict[str, Any], Report], Fields]
    optional: frozenset[str] = frozenset()
    keeps_rest: bool = False
    """Whether other keys are kept in the row."""

    def missing(self, keys: Iterable[str]) -> list[tuple[str, ...]]:
        have = set(keys)
        return [names for names in self.required if not have.intersection(names)]


_CALLS = frozenset({"tools", "functions", "parallel_tool_calls"})

FORMATS: dict[str, Format] = {
    "openai-preference": Format(
        (
            ("input",),
            ("preferred_output", "preferred_completion"),
            ("non_preferred_output", "non_preferred_completion"),
        ),
        readers.read_openai_preference,
    ),
    "preference": Format(
        (("chosen",), ("rejected",)),
        readers.read_preference,
        frozenset({"prompt", "conversations", "instruction", "input", "system", "tools"}),
    ),
    "openai-chat": Format((("messages",),), readers.read_chat, _CALLS | {"system"}),
    "openai-reinforcement": Format((("messages",),), readers.read_reinforcement, _CALLS | {"system"}, keeps_rest=True),
    "sharegpt": Format((("conversations", "messages"),), readers.read_sharegpt, frozenset({"system", "tools"})),
    "kto": Format(
        (("prompt", "messages"), ("completion", "messages"), ("label", "kto_tag")),
        readers.read_kto,
        frozenset({"system", "tools"}),
    ),
    "prompt-completion": Format((("prompt",), ("completion",)), readers.read_pair, frozenset({"system", "tools"})),
    "alpaca": Format((("instruction",), ("output",)), readers.read_alpaca, frozenset({"input", "system", "history"})),
    "prompt": Format((("prompt",),), readers.read_prompt, frozenset({"system", "tools"}), keeps_rest=True),
    "text": Format((("text",),), readers.read_text),
}
"""By the ecosystem's names, the more demanding before the ones whose keys they share."""

_LABELS = ("label", "labels", "category", "intent", "class", "target", "sentiment")
"""What stands beside a text that is to be classified."""

_LISTS_OF_MESSAGES = ("openai-chat", "openai-reinforcement", "sharegpt")

KNOWN_PAIRS = (
    ("prompt", "completion"),
    ("user", "assistant"),
    ("question", "answer"),
    ("instruction", "output"),
    ("input", "output"),
)
"""Question and answer of a table without a mapping: the first pair whose two columns are both there."""


def format_of(example: Mapping[str, Any]) -> str:
    """The format whose keys the example has; empty when none fits."""
    for name, form in FORMATS.items():
        if form.missing(example):
            continue
        if name in _LISTS_OF_MESSAGES:
            return _kind_of_messages(example)
        # A text with a label is to be classified: learning the text alone would drop what it was labelled for.
        if name != "text" or not label_of(example):
            return name
    return ""


def label_of(example: Iterable[str]) -> str:
    """The key that says what the example's text is an example of; empty when none does."""
    have = {str(key).casefold(): str(key) for key in example}
    return next((have[name] for name in _LABELS if name in have), "")


def other_format(example: Mapping[str, Any], name: str, fits: bool, detected: bool) -> str:
    """The format of an example that does not belong into a file of format ``name``; empty when it does, or when it is of
    no format at all and so a broken one of this. ``fits`` says whether it has the keys of ``name``, which is enough
    unless that format was only detected."""
    if fits and (not detected or name in _LISTS_OF_MESSAGES):
        return ""
    other = format_of(example)
    return other if other != name else ""


def detect(sample: list[tuple[int, Any]]) -> tuple[str, str]:
    """The format of the first example that has one, and what it was recognised by; else empty, and what was found."""
    seen = ""
    for line, value in sample:
        if not isinstance(value, dict):
            seen = seen or f"a first value that is no JSON object: {shorten(value)}"
        elif found := format_of(value):
            keys = [next(key for key in names if key in value) for names in FORMATS[found].required]
            return found, f"line {line} has {', '.join(dict.fromkeys(keys))}"
        else:
            seen = (
                f"an object with the keys {', '.join(map(str, value)) or '(none)'}"
                if "object" not in seen[:9]
                else seen
            )
    return "", seen


def mapped(columns: Columns) -> tuple[str, dict[str, str]]:
    """The format that mapped columns make, and key of that format -> column; an empty format when they make none."""
    keys = {
        "prompt": columns.user,
        "completion": columns.assistant,
        "system": columns.system,
        "text": columns.text,
        "chosen": columns.chosen,
        "rejected": columns.rejected,
        "label": columns.label,
    }
    given = {key: column for key, column in keys.items() if column is not None}
    for name in ("preference", "kto", "prompt-completion", "prompt", "text"):
        if (
            not FORMATS[name].missing(given)
            and set(given) <= {k for n in FORMATS[name].required for k in n} | FORMATS[name].optional
        ):
            return name, given
    return "", given


def known_columns(header: Iterable[str], tags: tuple[str, ...] = ()) -> Columns | None:
    """The well-known pair of columns that a table has."""
    have = set(header)
    for user, assistant in KNOWN_PAIRS:
        if {user, assistant} <= have:
            return Columns(user=user, assistant=assistant, system="system" if "system" in have else None, tags=tags)
    return None


def _kind_of_messages(example: Mapping[str, Any]) -> str:
    if "conversations" in example or dialect_of(example["messages"]) is SHAREGPT:
        return "sharegpt"
    messages = example["messages"]
    answered = not isinstance(messages, list) or any(
        isinstance(m, dict) and m.get("role") == "assistant" for m in messages
    )
    # To learn such a chat without its label would teach the bad answers too.
    if answered and any(isinstance(example.get(key), bool) for key in ("label", "kto_tag")):
        return "kto"
    # What a grader needs stands beside the messages; a chat example without an answer has only them, and is broken.
    beside = set(example) - {"messages", "tags", "system"} - _CALLS
    return "openai-reinforcement" if beside and not answered and messages else "openai-chat"
