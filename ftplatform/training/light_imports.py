"""What the libraries of a training import merely because it is installed, and a training does not use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ftplatform.core.methods import BUILT_IN
from ftplatform.core.payload import TrainSpec
from ftplatform.core.strategies import DEEPSPEED

FOR_GOOD = frozenset({"bitsandbytes", "deepspeed"})
"""peft and accelerate import them again at later moments."""


def unused_packages(spec: TrainSpec) -> set[str]:
    """Names of packages that this training has no use for: a fifth of the processor time of the imports beyond
    bitsandbytes and DeepSpeed (6.2 s to 4.9 s, on a busy machine).

    peft and accelerate import bitsandbytes, DeepSpeed and boto3, transformers torchao, and scipy and datasets (with pandas) for
    losses of pictures and for tables. A method of a plug-in may want what transformers knows of tables.
    """
    names = set() if spec.method not in BUILT_IN else {"datasets", "pandas", "scipy", "sklearn"}
    names |= set() if spec.strategy in DEEPSPEED else {"deepspeed"}
    names |= set() if spec.training.uses_bitsandbytes else {"bitsandbytes"}
    names |= set() if spec.training.qat != "none" else {"torchao"}
    return names | (set() if spec.store.url.startswith("s3:") else {"boto3"})


@contextmanager
def hidden(names: set[str]) -> Iterator[None]:
    """While it lasts ``names`` are not there to import. Afterwards they are, for a grader that needs one, except
    ``FOR_GOOD``.
    """
    away = names - sys.modules.keys()
    sys.modules.update(dict.fromkeys(away))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in away - FOR_GOOD:
            del sys.modules[name]
