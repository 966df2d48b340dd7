"""Datasets and their uploads. An upload is the complete set of a dataset's files at one moment."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, insert, select, update

from ftplatform.catalog.base import Part, as_dicts, insert_missing, now
from ftplatform.catalog.tables import datasets, uploads
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import NotFound
from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import SourceFile


class Datasets(Part):
    def add(self, key: DatasetKey) -> None:
        """Register the dataset; already there is fine."""
        with self.engine.begin() as db:
            insert_missing(db, datasets, dataset=str(key), tenant=key.tenant, created_at=now())

    def all(self) -> list[dict[str, Any]]:
        with self.engine.begin() as db:
            return as_dicts(db.execute(select(datasets).order_by(datasets.c.dataset)).all())

    def curated(self, key: DatasetKey) -> str | None:
        """Content digest of the latest accepted version, None before the first.

        Raises:
            NotFound: the dataset was never registered.
        """
        with self.engine.begin() as db:
            row = db.execute(select(datasets.c.curated).where(datasets.c.dataset == str(key))).first()
        if row is None:
            raise NotFound(
                f"dataset {key} is unknown: push one with `ft dataset push {key} FILE...` or drop files into its uploads folder"
            )
        digest: str | None = row.curated
        return digest

    def set_curated(self, key: DatasetKey, digest: str) -> None:
        with self.engine.begin() as db:
            db.execute(update(datasets).where(datasets.c.dataset == str(key)).values(curated=digest))

    def upload(self, key: DatasetKey, files: list[SourceFile], origin: str) -> tuple[int, bool]:
        """Record a set of files and return (sequence number, is new).

        The same set as the newest upload of the dataset is not a new one: a bad file is reported once and never retried. Only
        where we failed, and not the file, the same set may come again.
        """
        self.add(key)
        values = [file.model_dump() for file in sorted(files, key=lambda f: f.name)]
        digest = digest_json(values)
        with self.engine.begin() as db:
            # Two uploads of one dataset at once would both find the same newest one.
            db.execute(select(datasets.c.dataset).where(datasets.c.dataset == str(key)).with_for_update())
            newest = db.execute(
                select(uploads.c.seq, uploads.c.digest, uploads.c.state)
                .where(uploads.c.dataset == str(key))
                .order_by(uploads.c.seq.desc())
                .limit(1)
            ).first()
            if newest is not None and newest.digest == digest and newest.state != "failed":
                return int(newest.seq), False
            result = db.execute(
                insert(uploads).values(
                    dataset=str(key),
                    files=values,
                    digest=digest,
                    origin=origin,
                    state="pending",
                    message="",
                    created_at=now(),
                )
            )
            assert result.inserted_primary_key is not None
            return int(result.inserted_primary_key[0]), True

    def get_upload(self, key: DatasetKey, seq: int | None = None) -> dict[str, Any]:
        """The upload ``seq``, or the newest of the dataset.

        Raises:
            NotFound: there is none, or it belongs to another dataset.
        """
        query = select(uploads).where(uploads.c.dataset == str(key))
        query = query.where(uploads.c.seq == seq) if seq is not None else query.order_by(uploads.c.seq.desc()).limit(1)
        with self.engine.begin() as db:
            row = db.execute(query).first()
        if row is None:
            what = f"upload {seq} of dataset {key}" if seq is not None else f"an upload of dataset {key}"
            raise NotFound(
                f"{what} does not exist: push files with `ft dataset push {key} FILE...` or drop them into its uploads folder"
            )
        return dict(row._mapping)

    def list_uploads(self, key: DatasetKey) -> list[dict[str, Any]]:
        """Oldest first."""
        with self.engine.begin() as db:
            return as_dicts(
                db.execute(select(uploads).where(uploads.c.dataset == str(key)).order_by(uploads.c.seq)).all()
            )

    def pending_uploads(self) -> list[dict[str, Any]]:
        """Every upload no run has judged yet, oldest first."""
        with self.engine.begin() as db:
            return as_dicts(
                db.execute(select(uploads).where(uploads.c.state == "pending").order_by(uploads.c.seq)).all()
            )

    def newest_accepted(self, key: DatasetKey) -> int:
        """Sequence number of the newest accepted upload, 0 before the first."""
        query = select(func.max(uploads.c.seq)).where((uploads.c.dataset == str(key)) & (uploads.c.state == "accepted"))
        with self.engine.begin() as db:
            return int(db.execute(query).scalar() or 0)

    def fail_pending(self, seq: int, message: str) -> None:
        """Mark an upload that no run judged as ``failed``: ours to mend, and the same files may be sent again."""
        pending = (uploads.c.seq == seq) & (uploads.c.state == "pending")
        with self.engine.begin() as db:
            db.execute(update(uploads).where(pending).values(state="failed", message=message))

    def judge(self, seq: int, state: str, message: str, report: str | None) -> None:
        """Set an upload's outcome: ``accepted``, ``refused`` (the customer's to mend) or ``failed`` (ours)."""
        with self.engine.begin() as db:
            db.execute(update(uploads).where(uploads.c.seq == seq).values(state=state, message=message, report=report))
