"""Before the first step of several processes: do all of them come, are they the same program, does the network carry sums?

What goes wrong here otherwise shows as a hang of half an hour or a traceback out of NCCL. Every process checks the same
things and fails with the same sentence; process 0's becomes the result.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ftplatform.core.digests import digest_json
from ftplatform.core.errors import PayloadFailed
from ftplatform.core.payload import TrainSpec
from ftplatform.store.cache import code_digest
from ftplatform.training.distributed.passport import Passport, differences, missing

JOIN_SECONDS = 180.0
"""How long the others may take to start: pods of one job come up minutes apart."""
SUM_SECONDS = 60.0
"""How long one sum may take: setting up NCCL takes seconds."""
PREFLIGHT_SILENCE = 2 * JOIN_SECONDS + 3 * SUM_SECONDS
OPERATION_SECONDS = 3600.0
"""How long any later collective may take: process 0 may be saving or proving the weights meanwhile."""
_MEGABYTES = 16
_LOOK_AT = (
    "look at the network between the hosts: MASTER_ADDR and MASTER_PORT reachable, no firewall between the pods, and the right "
    "interface (NCCL_SOCKET_IFNAME, or GLOO_SOCKET_IFNAME without GPUs)"
)


def preflight(spec: TrainSpec, say: Callable[[str], object]) -> None:
    """Open the process group of a training of several processes, having looked at all of them; ``say`` gets the findings.

    Raises:
        PayloadFailed: a process is missing, differs, or the sum over all of them does not come back right.
    """
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", "0"))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(local)
    try:
        store = _store(rank)
        passports = check_in(dist.PrefixStore("preflight", store), own_passport(spec, rank, backend), processes)
        timeout = timedelta(seconds=OPERATION_SECONDS)
        in_time(lambda: dist.init_process_group(
            backend, store=store, rank=rank, world_size=processes, timeout=timeout,
            device_id=torch.device("cuda", local) if backend == "nccl" else None,
        ), "opening the process group", passports)  # fmt: skip
        speed = check_sum(rank, processes, passports)
    except PayloadFailed:
        if rank:
            # torchrun ends everybody when the first one ends, and process 0 has the result to write.
            time.sleep(2.0)
        raise
    hosts = sorted({one.host for one in passports})
    say(f"{processes} processes on {', '.join(hosts)} over {backend}: sums come right, at {speed:.2g} GB/s each")


def _store(rank: int) -> Any:
    try:
        return next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS))))[0]
    except (dist.DistError, RuntimeError) as error:
        raise PayloadFailed(
            f"rank {rank} on {platform.node()} did not reach the rendezvous at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')}: {str(error).splitlines()[0]}; {_LOOK_AT}. A retry helps once it can",
            retry_helps=True,
        ) from error


def own_passport(spec: TrainSpec, rank: int, backend: str) -> Passport:
    cuda = torch.cuda.is_available()
    return Passport(
        rank=rank,
        host=platform.node(),
        device=f"cuda:{torch.cuda.current_device()} {torch.cuda.get_device_name()}" if cuda else "cpu",
        backend=backend,
        code=code_digest("training/__main__"),
        spec=digest_json(spec.model_dump(mode="json")),
        torch=f"{torch.__version__}{f' nccl {torch.cuda.nccl.version()}' if cuda else ''}",
    )


def check_in(store: Any, mine: Passport, processes: int, seconds: float = JOIN_SECONDS) -> list[Passport]:
    """Lay ``mine`` out in ``store`` and wait for all the others'; returns them by rank.

    Raises:
        PayloadFailed: a process did not come within ``seconds``; or they are not of one program, spec and time.
    """
    store.set(f"rank{mine.rank}", mine.model_dump_json())
    deadline = time.monotonic() + seconds
    names = [f"rank{rank}" for rank in range(processes)]
    while True:
        here = [name for name in names if store.check([name])]
        if len(here) == processes or time.monotonic() > deadline:
            break
        time.sleep(min(0.1, seconds))
    passports = [Passport.model_validate_json(store.get(name)) for name in here]
    if absent := missing(passports, processes):
        raise PayloadFailed(f"{absent} within {seconds:g} s; {_LOOK_AT}. A retry helps once it can", retry_helps=True)
    # All are awake now, so their clocks can be compared to within a poll.
    store.set(f"clock{mine.rank}", str(time.time()))
    store.wait([f"clock{rank}" for rank in range(processes)], timedelta(seconds=max(seconds, 1.0)))
    clocks = [float(store.get(f"clock{rank}")) for rank in range(processes)]
    if wrong := differences(passports, clocks):
        raise PayloadFailed(f"the processes of this training do not go together: {wrong}. A retry alone does not help")
    return passports


def check_sum(rank: int, processes: int, passports: list[Passport]) -> float:
    """Sum known numbers over all processes; returns the speed in GB/s that a process sends and receives at.

    The speed is nccl-tests' bus bandwidth: 2 (n - 1) / n bytes go through each process per byte that is summed.

    Raises:
        PayloadFailed: a wrong sum, or none in time.
    """
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    numbers = torch.full((_MEGABYTES * 250_000,), float(rank + 1), device=device)
    in_time(lambda: _summed(numbers), "summing over all processes", passports)
    expected = processes * (processes + 1) / 2
    if not bool((numbers == expected).all()):
        raise PayloadFailed(
            f"a sum over the {processes} processes gave {float(numbers.min())} to {float(numbers.max())}, expected was "
            f"{expected}: the network or a GPU damages data. Hosts: {_hosts(passports)}. Take the faulty one out",
            retry_helps=True,
        )
    begun = time.monotonic()
    in_time(lambda: _summed(numbers), "summing over all processes", passports)
    seconds = time.monotonic() - begun
    return float(2 * (processes - 1) / processes * numbers.numel() * 4 / seconds / 1e9)


def in_time(work: Callable[[], object], what: str, passports: list[Passport], seconds: float = SUM_SECONDS) -> None:
    """Run ``work``, which may hang inside a library, for at most ``seconds``.

    Raises:
        PayloadFailed: it did not end in time, or with an error of the network.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told in the sentence below
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() or failed:
        why = f"failed with: {str(failed[0]).splitlines()[0]}" if failed else f"did not end within {seconds:g} s"
        raise PayloadFailed(
            f"{what} {why}, although all {len(passports)} processes had come ({_hosts(passports)}); {_LOOK_AT}. A retry helps "
            "once it can",
            retry_helps=True,
        )


def _summed(numbers: torch.Tensor) -> None:
    if numbers.is_cuda:
        torch.cuda.set_device(numbers.device)
    dist.all_reduce(numbers)
    if numbers.is_cuda:
        torch.cuda.synchronize()


def _hosts(passports: list[Passport]) -> str:
    return ", ".join(f"rank {one.rank} on {one.host} ({one.device})" for one in passports)
