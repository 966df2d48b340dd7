"""Model lines and the jobs that train them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update

from ftplatform.catalog.base import Part, as_dicts, insert_missing, now
from ftplatform.catalog.tables import attempts, jobs, lines
from ftplatform.core.errors import NotFound
from ftplatform.core.ids import LineKey, new_job_id
from ftplatform.core.payload import PayloadResult

OPEN = ("queued", "running")
PRIORITIES = {"low": -10, "normal": 0, "high": 10}
"""Priority of a job as Dagster's ``dagster/priority`` tag: runs with a higher number leave the queue first."""


class Jobs(Part):
    def add_line(self, line: LineKey) -> None:
        """A line exists once it was asked for; already there is fine."""
        with self.engine.begin() as db:
            insert_missing(db, lines, dataset=str(line.dataset), recipe=str(line.recipe), created_at=now())

    def lines(self) -> list[LineKey]:
        with self.engine.begin() as db:
            rows = db.execute(select(lines.c.dataset, lines.c.recipe).order_by(lines.c.dataset, lines.c.recipe)).all()
        return [LineKey.parse(f"{row.dataset}|{row.recipe}") for row in rows]

    def submit(
        self,
        line: LineKey,
        reason: str,
        *,
        curated: str | None = None,
        priority: str = "normal",
        state: str = "queued",
        run: str | None = None,
        job: str | None = None,
    ) -> str:
        """Ask for one training of the line and return the job's id: ``job``, a new one, where something was written under it first."""
        job = job or new_job_id()
        self.add_line(line)
        with self.engine.begin() as db:
            db.execute(
                insert(jobs).values(
                    job=job, dataset=str(line.dataset), recipe=str(line.recipe), reason=reason, curated=curated, priority=priority,
                    state=state, desired="run", attempt=1, run=run, message="", created_at=now(),
                )
            )  # fmt: skip
        return job

    def get(self, job: str) -> dict[str, Any]:
        """Raises NotFound."""
        with self.engine.begin() as db:
            row = db.execute(select(jobs).where(jobs.c.job == job)).first()
        if row is None:
            raise NotFound(f"job {job!r} is unknown: `ft job list` lists them")
        return dict(row._mapping)

    def all(self, line: LineKey | None = None) -> list[dict[str, Any]]:
        """Newest first."""
        query = select(jobs).order_by(jobs.c.created_at.desc())
        if line is not None:
            query = query.where((jobs.c.dataset == str(line.dataset)) & (jobs.c.recipe == str(line.recipe)))
        with self.engine.begin() as db:
            return as_dicts(db.execute(query).all())

    def running(self) -> list[dict[str, Any]]:
        with self.engine.begin() as db:
            return as_dicts(db.execute(select(jobs).where(jobs.c.state == "running")).all())

    def queued(self) -> list[dict[str, Any]]:
        """Oldest first."""
        with self.engine.begin() as db:
            return as_dicts(db.execute(select(jobs).where(jobs.c.state == "queued").order_by(jobs.c.created_at)).all())

    def pin(self, job: str, curated: str) -> None:
        """Record the dataset version the job's plan pinned."""
        with self.engine.begin() as db:
            db.execute(update(jobs).where(jobs.c.job == job).values(curated=curated))

    def set_state(self, job: str, state: str, message: str = "", *, run: str | None = None) -> None:
        values: dict[str, Any] = {"state": state, "message": message}
        if state not in OPEN:
            values["finished_at"] = now()
        if run is not None:
            values["run"] = run
        with self.engine.begin() as db:
            db.execute(update(jobs).where(jobs.c.job == job).values(**values))

    def cancel(self, job: str) -> None:
        """Ask for the end of a job; the launcher's wait loop reads it every second. A queued job ends at once."""
        self.get(job)
        with self.engine.begin() as db:
            db.execute(update(jobs).where(jobs.c.job == job).values(desired="cancel"))
            db.execute(
                update(jobs)
                .where((jobs.c.job == job) & (jobs.c.state == "queued"))
                .values(state="cancelled", finished_at=now(), message="cancelled before it started")
            )

    def wants_cancel(self, job: str) -> bool:
        with self.engine.begin() as db:
            return db.execute(select(jobs.c.desired).where(jobs.c.job == job)).scalar() == "cancel"

    def record_attempt(
        self, job: str, stage: str, payload: str, attempt: int, started_at: float, result: PayloadResult
    ) -> None:
        with self.engine.begin() as db:
            db.execute(
                insert(attempts).values(
                    job=job, stage=stage, payload=payload, attempt=attempt, outcome=result.outcome, message=result.message,
                    numbers=result.numbers, started_at=started_at, finished_at=now(),
                )
            )  # fmt: skip

    def attempts(self, job: str) -> list[dict[str, Any]]:
        with self.engine.begin() as db:
            return as_dicts(db.execute(select(attempts).where(attempts.c.job == job).order_by(attempts.c.id)).all())
