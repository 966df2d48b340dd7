"""A function over many blocks, by several processes or a Ray cluster, in order and in bounded memory."""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from ftplatform.core.errors import PayloadFailed

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""Blocks per worker that are read before they are needed: enough to keep all busy, few enough to hold in memory."""
_RAY_WINDOW = 64
"""Blocks handed to Ray at a time; its object store holds that many, not the whole upload."""
_IDLE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class RayCluster:
    """``address`` as ``ray.init`` takes it: ``auto``, ``ray://host:10001``, or ``local`` for one of its own.

    Every node needs this package installed; blocks travel through Ray's object store.
    """

    address: str = "auto"
    workers: int = 2


Workers = int | RayCluster


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: Workers = 1) -> Iterator[Result]:
    """``function`` of every item, in the order of the items, whoever finishes first.

    ``function`` and the items must be picklable when ``workers`` is more than 1; with 1 the work is done here.

    Raises:
        PayloadFailed: a worker process ended without an answer (killed, or out of memory); a retry can help.
        Exception: whatever ``function`` raises.
    """
    if isinstance(workers, RayCluster):
        return _by_ray(function, items, workers)
    if workers == 1:
        return map(function, items)
    return _by_processes(function, items, workers)


def _by_processes(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    # loky starts clean processes that do not import the caller's main module again, which in a Dagster step is all of
    # Dagster, and keeps them for the next call.
    from loky import get_reusable_executor
    from loky.process_executor import TerminatedWorkerError

    executor = get_reusable_executor(
        max_workers=workers, timeout=_IDLE_SECONDS, env={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    )
    source = iter(items)
    waiting: deque[Any] = deque()
    try:
        for item in islice(source, workers * _AHEAD):
            waiting.append(executor.submit(function, item))
        while waiting:
            result = waiting.popleft().result()
            for item in islice(source, 1):
                waiting.append(executor.submit(function, item))
            yield result
    except TerminatedWorkerError as error:
        raise PayloadFailed(
            f"one of {workers} data workers ended without an answer, killed from outside or by the kernel for memory: "
            f"give the step more memory or set fewer workers. A retry can help. {error}",
            retry_helps=True,
        ) from error
    finally:
        for future in waiting:
            future.cancel()


def _by_ray(function: Callable[[Item], Result], items: Iterable[Item], cluster: RayCluster) -> Iterator[Result]:
    # Read when the library is imported; it would otherwise report its use to a server.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.data import DataContext

    ray.init(
        address=None if cluster.address == "local" else cluster.address,
        num_cpus=cluster.workers if cluster.address == "local" else None,
        ignore_reinit_error=True,
        log_to_driver=False,
        include_dashboard=False if cluster.address == "local" else None,
    )
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False

    def work(row: dict[str, bytes]) -> dict[str, bytes]:
        return {"block": pickle.dumps(function(pickle.loads(row["block"])))}

    source = iter(items)
    while window := [{"block": pickle.dumps(item)} for item in islice(source, _RAY_WINDOW)]:
        blocks = ray.data.from_items(window, override_num_blocks=len(window))
        for row in blocks.map(work).iter_rows():
            yield pickle.loads(row["block"])
