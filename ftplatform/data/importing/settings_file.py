"""``dataset.yaml`` as YAML: read with care, because it comes from outside."""

from __future__ import annotations

from typing import Any

import yaml

from ftplatform.core.errors import InvalidConfig

LARGEST = 1 << 20
"""Bytes."""
DEEPEST = 20
"""Lists and mappings inside each other."""


def read_settings(raw: bytes, where: str) -> Any:
    """The file's value, for ``parse_dataset_config``.

    Raises:
        InvalidConfig: it is no YAML, too large or too deep, has a key twice, or an alias. A dozen lines of aliases
            make billions of values, and a key given twice hides the one that its reader looks at.
    """
    if len(raw) > LARGEST:
        raise InvalidConfig(f"{where} cannot be used: it has {len(raw):,} bytes, accepted are {LARGEST:,}")
    try:
        return yaml.load(raw, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidConfig(f"{where} cannot be used{place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        # ValueError: a date such as 2020-99-99, which the safe loader takes for one.
        raise InvalidConfig(f"{where} cannot be used: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    """Without aliases, keys given twice and depths that only recursion has use for."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _refused("an alias (*name): write the value out", self.peek_event())
        self.depth += 1
        if self.depth > DEEPEST:
            raise _refused(f"more than {DEEPEST} lists and mappings inside each other", self.peek_event())
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise _refused(f"the key {key.value!r} for the second time", key)
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
