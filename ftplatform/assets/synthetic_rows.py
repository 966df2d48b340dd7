"""``synthetic_rows``: rows that a teacher model writes from the dataset's own, sent back as a new upload."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from ftplatform.assets.reporting import check_specs, readable_failures, result, to_dagster
from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import DatasetConfig, SyntheticConfig
from ftplatform.core.digests import digest_json
from ftplatform.core.errors import Conflict, DataRefused, InvalidConfig
from ftplatform.core.ids import DatasetKey
from ftplatform.core.manifests import CuratedDataset, SourceFile, SyntheticRows
from ftplatform.core.rows import Row
from ftplatform.data.importing.ingest import ingest
from ftplatform.data.importing.opening import SYNTHETIC_FILE
from ftplatform.data.synthetic.rows import Answer, Written, draw_seeds, plan_calls, to_upload, write_rows
from ftplatform.data.synthetic.teacher import Teacher, ask_all
from ftplatform.data.tables import counts_table, markdown_table, sample_table
from ftplatform.partitions import datasets
from ftplatform.resources import Platform
from ftplatform.resources.platform import Parts

LISTED = 20
"""Failures shown in the metadata; the object has all."""


@dg.asset(
    partitions_def=datasets,
    group_name="on_demand",
    owners=["team:data-platform"],
    kinds={"openai", "json"},
    check_specs=check_specs(
        "synthetic_rows", datasets, {"usable": "half of the teacher's answers or more became rows"}, blocking=False
    ),
)
def synthetic_rows(
    context: dg.AssetExecutionContext, platform: Platform, curated_dataset: CuratedDataset
) -> Iterator[object]:
    """Paraphrases or new examples by a teacher model, in the style of training rows; they pass the same checks as any upload."""
    with readable_failures():
        parts, key = platform.parts, DatasetKey.parse(context.partition_key)
        with parts.catalog.leases.hold(f"synthetic:{key}", context.run_id, parts.settings.lease_seconds):
            config = DatasetConfig.model_validate(parts.store.get_json(curated_dataset.config)).synthetic
            if config is None:
                raise InvalidConfig(
                    f"{key}: its dataset.yaml has no `synthetic`; give the teacher's url and model there"
                )
            teacher = open_teacher(parts, config)
            seeds = draw_seeds(_rows(parts.store.path(curated_dataset.splits["train"])), config)
            calls = plan_calls(seeds, config)
            work = f"synthetic/{key}/{digest_json([config.model_dump(exclude={'max_share'}), [c.body for c in calls]])[:32]}"
            known = _known(parts, work)
            cost = sum(call.number not in known for call in calls)
            if cost > parts.settings.teacher_calls:
                raise InvalidConfig(
                    f"{key}: {len(seeds)} seeds x {config.per_seed} make {cost} calls of {config.model}, accepted are "
                    f"{parts.settings.teacher_calls} (FTPLATFORM_TEACHER_CALLS); ask for fewer seeds"
                )
            context.log.info(f"{cost} calls of {config.model}; {len(known)} answers are there already")
            answers = ask_all(calls, teacher, known, lambda found: _save(parts, work, found))
            written = _accepted(write_rows(calls, answers, config))
            if not written.rows:
                raise DataRefused(
                    f"{key}: none of {len(calls)} answers became a row: {written.reasons}; nothing is uploaded"
                )
            content = to_upload(written.rows)
            sequence, new = push(parts, key, content)
            yield to_dagster(_check(written, len(calls)))
            manifest = SyntheticRows(
                dataset=str(key),
                teacher=config.model,
                kind=config.kind,
                seeds=len(seeds),
                calls=len(calls),
                rows=len(written.rows),
                dropped=written.reasons,
                file=parts.store.put_bytes(content),
                failures=parts.store.put_bytes(b"".join(json.dumps(f).encode() + b"\n" for f in written.failures)),
            )
            yield result(
                manifest, {"upload": sequence, "calls made": cost, **_metadata(manifest, written)}, reused=not new
            )


def open_teacher(parts: Parts, config: SyntheticConfig) -> Teacher:
    """The teacher at ``config.url``, if whoever runs the platform allows it.

    A dataset.yaml is the customer's: an address of their choice would open the platform's network to them, and the name of a
    variable of their choice its secrets. So addresses and their keys are paired in the platform's own settings.
    """
    allowed = parts.settings.teachers
    url = config.url.rstrip("/")
    if url not in allowed:
        raise InvalidConfig(
            f"synthetic.url {config.url!r} is not allowed here; accepted are {', '.join(sorted(allowed))} (FTPLATFORM_TEACHERS)"
        )
    return Teacher(url, allowed[url])


def push(parts: Parts, key: DatasetKey, content: bytes) -> tuple[int, bool]:
    """Record the accepted files with ``synthetic.jsonl`` replaced as an upload; (sequence number, is new).

    Raises:
        Conflict: a newer upload is not judged yet; the older files in front of it would bring back what it replaced.
    """
    newest = parts.catalog.datasets.get_upload(key)
    if newest["state"] == "pending":
        raise Conflict(f"{key}: upload {newest['seq']} waits to be judged; run synthetic_rows again after it")
    accepted = parts.catalog.datasets.get_upload(key, parts.catalog.datasets.newest_accepted(key))
    files = [SourceFile.model_validate(file) for file in accepted["files"] if file["name"] != SYNTHETIC_FILE]
    files.append(SourceFile(name=SYNTHETIC_FILE, digest=parts.store.put_bytes(content), size=len(content)))
    return parts.catalog.datasets.upload(key, files, "synthetic")


def _rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for line in lines:
            yield Row.from_json(json.loads(line))


def _known(parts: Parts, work: str) -> dict[int, Answer]:
    """Answers of earlier runs that asked the same."""
    saved = (parts.store.get_doc(name) for name in parts.store.list_docs(work))
    return {number: Answer(text, finish) for found in saved for number, text, finish in found["answers"]}


def _save(parts: Parts, work: str, found: dict[int, Answer]) -> None:
    # Named by its first answered call: an answered call is never asked again, so no batch replaces another.
    answers = [[number, answer.text, answer.finish] for number, answer in found.items()]
    parts.store.put_doc(f"{work}/{min(found):08d}", {"answers": answers})


def _accepted(written: Written) -> Written:
    """Without the rows that the importer would refuse: one of them would refuse the whole upload."""
    config = DatasetConfig(format="openai-chat", max_bad_rows=len(written.rows), min_rows=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SYNTHETIC_FILE
        file.write_bytes(to_upload(written.rows))
        found = ingest([(SYNTHETIC_FILE, file)], config, Path(folder) / "out")
        findings = [json.loads(line) for line in found.findings.read_bytes().splitlines()]
    bad = {f["line"]: f for f in reversed(findings) if f["severity"] == "error" and f["line"]}
    kept = [row for number, row in enumerate(written.rows, 1) if number not in bad]
    refused = [
        {"call": None, "seed": written.rows[line - 1].tags["seed_row"], "reason": f["code"], "found": f["found"]}
        for line, f in sorted(bad.items())
    ]
    return Written(kept, [*written.failures, *refused])


def _check(written: Written, calls: int) -> CheckResult:
    share = len(written.rows) / calls
    message = f"{len(written.rows)} of {calls} answers became rows; others: {written.reasons or 'none'}"
    return CheckResult(
        "usable", share >= 0.5, message, severity="warning", numbers={"rows": len(written.rows), "calls": calls}
    )


def _metadata(manifest: SyntheticRows, written: Written) -> dict[str, Any]:
    return {
        "rows": manifest.rows,
        "answers not used": dg.MetadataValue.md(counts_table(dict(manifest.dropped), "reason", "answers")),
        "failures": dg.MetadataValue.md(markdown_table(written.failures[:LISTED])),
        "first rows": dg.MetadataValue.md(sample_table(written.rows[:5])),
    }
