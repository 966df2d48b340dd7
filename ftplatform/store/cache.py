"""Work done once: a stage's result is found again by everything that could change it.

key = hash(stage, inputs, code of the stage). The inputs are digests and resolved settings, the code is the source text of the
modules that do the work, so one changed byte of data, base, recipe or code is another key, and nothing else is.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ftplatform.core.digests import digest_bytes, digest_json
from ftplatform.store.base import ObjectStore

PACKAGE = Path(__file__).resolve().parent.parent
WORKERS = ("data", "training", "evaluation")


@cache
def code_digest(*entries: str, package: Path = PACKAGE) -> str:
    """Digest of the source text of a stage: its entry modules and all of ours that they import, however deep.

    ``entries`` are paths below the package without ``.py``, for example ``data/curation/curate`` or ``training/__main__``. Only the
    packages that do a stage's work count (``WORKERS``): a stage's contract is hashed with its inputs, and a change of the store
    or of an error message must not train every model again.
    """
    seen: dict[str, str] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        path = _source(package, name)
        if path is None or name in seen or name.split("/")[0] not in WORKERS:
            continue
        text = path.read_bytes()
        seen[name] = digest_bytes(text)
        waiting += _imports(text)
    if not seen:
        raise ValueError(f"no source found for {entries} below {package}")
    return digest_json(seen)


def _source(package: Path, name: str) -> Path | None:
    return next((p for p in (package / f"{name}.py", package / name / "__init__.py") if p.is_file()), None)


def _imports(text: bytes) -> list[str]:
    """Modules of ours that a source text imports anywhere, also inside functions, as paths below the package."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ftplatform."):
            place = node.module.removeprefix("ftplatform.").replace(".", "/")
            found += [place, *(f"{place}/{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [
                alias.name.removeprefix("ftplatform.").replace(".", "/")
                for alias in node.names
                if alias.name.startswith("ftplatform.")
            ]
    return found


def cache_key(stage: str, *, code: str, inputs: dict[str, Any]) -> str:
    """The name under which the stage's result is kept; 64 hexadecimal characters."""
    return digest_json({"stage": stage, "code": code, "inputs": inputs})


def cached(
    store: ObjectStore,
    stage: str,
    key: str,
    work: Callable[[], Any],
    needs: Callable[[Any], Iterable[str]] = lambda document: (),
) -> tuple[Any, bool]:
    """The stage's stored document and True, or the document ``work`` makes, stored now, and False.

    ``needs`` gives the objects a document names: where the store lost one, the work is done again.
    """
    name = f"cache/{stage}/{key}"
    found = store.find_doc(name)
    if found is not None and all(store.has(digest) for digest in needs(found)):
        return found, True
    made = work()
    store.put_doc(name, made)
    return made, False
