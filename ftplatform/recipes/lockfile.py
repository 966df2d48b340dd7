"""The lockfile of a job: everything that has to be the same for the same weights, and what came out.

It is a document of the job in the store, ``jobs/<job>/lockfile``.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from ftplatform.core.digests import digest_file, digest_json
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.frozen import Frozen
from ftplatform.core.manifests import Adapter, TokenizedShards
from ftplatform.core.methods import find_method
from ftplatform.core.payload import TrainSpec
from ftplatform.core.plan import Plan
from ftplatform.store.cache import code_digest

LOCKFILE = "lockfile"
STACK = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "bitsandbytes",
    "deepspeed",
    "torchao",
)
_PROJECT = Path(__file__).resolve().parent.parent.parent
_ASK = (
    "import json, platform; from importlib.metadata import distributions; print(json.dumps([platform.python_version(), "
    "sorted({d.metadata['Name'].lower(): d.version for d in distributions()}.items())]))"
)


class Environment(Frozen):
    """Where a payload runs."""

    image: str | None
    """Container image as named."""
    image_digest: str | None
    """``sha256:...`` where the image is named by it; a tag alone can move."""
    python: str
    machine: str
    cpu: str | None
    """Model name: sums come out differently with other vector units. None where the system does not say."""
    stack: dict[str, str]
    """Versions of the packages that training is made of; one that is missing has none."""
    packages: str
    """Digest of all installed packages and versions."""
    package_lock: str | None
    """Digest of the project's ``requirements.lock``; None in an installation without it."""
    version: str
    """Of this package."""
    commit: str | None
    """Of its repository, with ``+changes`` where the working tree differs from it; None outside one."""
    code: str
    """Digest of the source text of the training."""


class Lock(Frozen):
    job: str
    dataset: str
    recipe: str
    recipe_digest: str
    environment: Environment
    base: str
    base_weights: str
    data: dict[str, str]
    """``curated``, ``split train`` ..., ``shard train 0`` ..., ``template``, ``tokenizer`` -> digest."""
    seeds: dict[str, int]
    resolved: dict[str, Any]
    """Dotted field -> value: the payload's spec, every default filled in."""
    spec: TrainSpec
    weights: str
    """Tree of what was trained."""
    fingerprint: str


def observe(method: str, image: str | None, python: str | None = None) -> Environment:
    """The environment of payloads that train with ``method``: of ``python``, or of the running interpreter.

    Raises:
        InvalidConfig: no such method, or ``python`` cannot be asked for its packages.
    """
    module = find_method(method).implementation.partition(":")[0]
    # A plug-in's code is in its package, whose version is among the packages.
    own = [module.removeprefix("ftplatform.").replace(".", "/")] if module.startswith("ftplatform.") else []
    release, packages = _packages(python)
    lock = _PROJECT / "requirements.lock"
    digest = re.search(r"@(sha256:[0-9a-f]{64})$", image or "")
    return Environment(
        image=image,
        image_digest=digest[1] if digest else None,
        python=release,
        machine=platform.machine(),
        cpu=_cpu(),
        stack={name: packages[name] for name in STACK if name in packages},
        packages=digest_json(packages),
        package_lock=digest_file(lock) if lock.is_file() else None,
        version=version("ftplatform"),
        commit=_commit(),
        code=code_digest("training/__main__", *own),
    )


def lock(
    job: str, plan: Plan, shards: TokenizedShards, spec: TrainSpec, adapter: Adapter, environment: Environment
) -> Lock:
    data = {"curated": plan.curated.content_digest, "template": shards.template, "tokenizer": shards.tokenizer}
    data |= {"init": plan.init.weights} if plan.init else {}
    data |= {f"split {name}": digest for name, digest in plan.curated.splits.items()}
    data |= {f"shard {name} {n}": digest for name, files in spec.shards.items() for n, digest in enumerate(files)}
    return Lock(
        job=job,
        dataset=plan.dataset,
        recipe=plan.recipe,
        recipe_digest=plan.recipe_digest,
        environment=environment,
        base=plan.base.key,
        base_weights=plan.base.weights,
        data=data,
        seeds={"training.seed": plan.training.seed},
        resolved=_resolved(spec),
        spec=spec,
        weights=adapter.weights,
        fingerprint=adapter.fingerprint,
    )


def drift(before: Lock, after: Lock) -> dict[str, tuple[Any, Any]]:
    """Dotted field -> (then, now) of what differs; the outcome last, under ``weights`` and ``fingerprint``."""
    left, right = (_flat(one.model_dump(mode="json", exclude={"job", "spec"})) for one in (before, after))
    names = dict.fromkeys([*left, *right])
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def _resolved(spec: TrainSpec) -> dict[str, Any]:
    """Without addresses and keys, which name places and not values."""
    return _flat(spec.model_dump(mode="json", exclude={"kind", "key", "store", "shards", "base_weights", "tracking"}))


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            found |= _flat(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = inner
    return found


def _packages(python: str | None) -> tuple[str, dict[str, str]]:
    if python is None or python == sys.executable:
        found = {one.metadata["Name"].lower(): one.version for one in distributions()}
        return platform.python_version(), dict(sorted(found.items()))
    try:
        said = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise InvalidConfig(f"{python} was asked for its packages and gave none: {error}") from error
    release, pairs = json.loads(said.stdout)
    return release, dict(pairs)


def _cpu() -> str | None:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1] if found else None


def _commit() -> str | None:
    if not (_PROJECT / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_PROJECT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        # An image may carry the repository and no git; the code's own digest is there in every case.
        return None
    return f"{commit}{'+changes' if changes else ''}"
