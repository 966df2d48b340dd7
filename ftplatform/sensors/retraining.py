"""When a model line is due: plain decisions over the catalog's facts."""

from __future__ import annotations

from typing import Any

from ftplatform.catalog.jobs import OPEN
from ftplatform.core.dataset_config import RetrainConfig


def due(retrain: RetrainConfig, curated: str | None, jobs: list[dict[str, Any]], now: float) -> str | None:
    """``new-data``, ``schedule`` or None.

    ``jobs`` are the line's, newest first. A version is asked for once: a failed or quarantined job of the same version is
    tried again by a person, never by itself.
    """
    if curated is None or any(job["state"] in OPEN for job in jobs):
        return None
    if retrain.on_new_data and all(job["curated"] != curated for job in jobs):
        return "new-data"
    if retrain.every_hours is not None and jobs and now - jobs[0]["created_at"] >= retrain.every_hours * 3600:
        return "schedule"
    return None


def startable(queued: list[dict[str, Any]], running: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The queued jobs whose line is free: one at a time per line, the oldest first."""
    busy = {(job["dataset"], job["recipe"]) for job in running}
    chosen = []
    for job in queued:
        line = (job["dataset"], job["recipe"])
        if line not in busy:
            busy.add(line)
            chosen.append(job)
    return chosen
