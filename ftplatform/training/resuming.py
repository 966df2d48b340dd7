"""Going on from a checkpoint, also with another number of processes than wrote it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ftplatform.training.ranks import world

METRICS_FILE = "metrics.jsonl"
"""In a checkpoint: a JSON object per step since step 1."""


def read_records(folder: Path) -> list[dict[str, float]]:
    """The metric records of the checkpoint in ``folder``."""
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def write_records(folder: Path, records: list[dict[str, float]]) -> None:
    (folder / METRICS_FILE).write_text("".join(json.dumps(record) + "\n" for record in records))


def collect_random_states(folder: Path) -> None:
    """Bring every process's random state into the folder of process 0, from whose machine the checkpoint is stored."""
    rank, processes = world()
    if processes == 1:
        return
    mine = folder / f"rng_state_{rank}.pth"
    gathered: list[bytes] = [b""] * processes
    torch.distributed.gather_object(mine.read_bytes(), gathered if rank == 0 else None)
    for number, data in enumerate(gathered if rank == 0 else []):
        (folder / f"rng_state_{number}.pth").write_bytes(data)


def own_random_stream(seed: int) -> None:
    """Give every process of several random numbers of its own before step 1; a training of one goes on with its seed's.

    Seeded alike, all of them would draw one dropout: rows of different processes would lose the same units.
    """
    if world()[1] > 1:
        _seed_process(seed, 0)


def _seed_process(seed: int, step: int) -> None:
    rank, processes = world()
    name = f"{seed}/{step}/{rank}/{processes}"
    set_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]))


def adapt_random_state(folder: Path, trainer: Any, seed: int, step: int) -> str | None:
    """Give every process a random state where another number of processes wrote the checkpoint; returns what was done.

    Rows, schedule and optimizer states do not depend on the number of processes; the random numbers that dropout draws
    do. Each process has its own stream of them, which cannot be divided again, and the Trainer would silently begin
    with the very numbers of step 1. The new ones depend on seed, step and process alone, so another attempt draws the
    same.
    """
    written, here = len(list(folder.glob("rng_state*.pth"))), trainer.args.world_size
    if written == here:
        return None
    for path in folder.glob("rng_state*.pth"):
        path.unlink()
    _seed_process(seed, step)
    trainer._save_rng_state(str(folder))
    return f"the checkpoint of step {step} was written by {written} processes and goes on with {here}: same rows, new dropout"
