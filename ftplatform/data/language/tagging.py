"""Tags by rule and by classifier; what a row brings itself always stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from ftplatform.core.dataset_config import TaggingConfig, TagRule
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Row

CLASSIFIERS = "ftplatform.tag_classifiers"
"""Entry point group in which an installed package offers its classifiers."""

Classifier = Callable[[Sequence[str]], list[dict[str, str]]]
"""Texts -> tags of each, in order."""
_Rules = dict[str, list[tuple[Any, str]]]
"""Tag -> its (compiled pattern, value), in the order of the file."""


def open_tagger(config: TaggingConfig) -> Callable[[Sequence[Row]], list[dict[str, str]]]:
    """Rows -> the tags of each: its own, then those of the rules, then those of the classifier; the first of a tag stays.

    A row without new tags gets its own dict back. Opened once per process.

    Raises:
        InvalidConfig: a pattern that RE2 does not take, or a classifier that is not offered or cannot be loaded. The
            returned function raises it too, when the classifier fails or gives back something else than tags.
    """
    rules: _Rules = {}
    for number, rule in enumerate(config.rules, start=1):
        rules.setdefault(rule.tag, []).append((_compile(rule, number), rule.value))
    classify = None if config.classifier is None else partial(_checked, config.classifier, _load(config.classifier))
    return partial(_tags, rules, classify)


def searched_text(row: Row) -> str:
    """What rules and classifiers see: the user turns, one below the other, or the document."""
    return row.text or "\n".join(m.content for m in row.messages if m.role == "user")


def _tags(rules: _Rules, classify: Classifier | None, rows: Sequence[Row]) -> list[dict[str, str]]:
    texts = [searched_text(row) for row in rows]
    classified = classify(texts) if classify else None
    found = []
    for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
        new = {}
        data = text.encode()  # once for all rules; RE2 would do it for each
        for tag, patterns in rules.items():
            if tag not in row.tags:
                value = next((value for pattern, value in patterns if pattern.search(data)), None)
                if value is not None:
                    new[tag] = value
        if classified:
            new = classified[index] | new
        found.append(new | row.tags if new.keys() - row.tags.keys() else row.tags)
    return found


def _compile(rule: TagRule, number: int) -> Any:
    import re2

    options = re2.Options()
    # Nothing but "does it match" is asked, which lets RE2 stop at the first match and keep no groups.
    options.never_capture = True
    options.log_errors = False
    try:
        return re2.compile(rule.pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise InvalidConfig(
            f"tagging.rules[{number}] (tag {rule.tag!r}) has the pattern {rule.pattern!r}, which cannot be used: {reason}. "
            "Accepted is RE2's syntax: no look-around and no back-references; (?i) in front ignores case"
        ) from error


def _load(name: str) -> Classifier:
    """The function, if an installed package offers it.

    Any importable function would do technically, and a dataset.yaml comes from a customer: ``subprocess:run`` called with the
    rows as its arguments is why only what the operator installed under the entry point group may be named.
    """
    offered = {point.value: point for point in entry_points(group=CLASSIFIERS)}
    if name not in offered:
        raise InvalidConfig(
            f"tagging.classifier is {name!r}, which no installed package offers; offered are: {', '.join(sorted(offered)) or 'none'}. "
            f"A package offers one by an entry point of the group {CLASSIFIERS} with the value package.module:function"
        )
    try:
        function: Classifier = offered[name].load()
    except (ImportError, AttributeError) as error:
        raise InvalidConfig(f"tagging.classifier {name!r} cannot be loaded: {error}") from error
    if not callable(function):
        raise InvalidConfig(
            f"tagging.classifier {name!r} is {function!r}: accepted is a function from texts to a list of dicts"
        )
    return function


def _checked(name: str, function: Classifier, texts: Sequence[str]) -> list[dict[str, str]]:
    if not texts:
        return []
    # Whatever a foreign function raises, its name belongs in the message.
    try:
        found = function(texts)
    except Exception as error:
        raise InvalidConfig(f"tagging.classifier {name!r} failed on {len(texts)} texts: {error!r}") from error
    if not isinstance(found, list) or len(found) != len(texts):
        size = f"{type(found).__name__} of {len(found)}" if hasattr(found, "__len__") else repr(found)
        raise InvalidConfig(
            f"tagging.classifier {name!r} got {len(texts)} texts and gave a {size}: accepted is a list of {len(texts)} dicts"
        )
    for tags in found:
        if not isinstance(tags, dict) or not all(isinstance(part, str) for pair in tags.items() for part in pair):
            raise InvalidConfig(
                f"tagging.classifier {name!r} gave {tags!r}: accepted is a dict from tag to value, both texts"
            )
    return found
