"""``curated_dataset``: canonical rows, scrubbed, de-duplicated, decontaminated and split."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from ftplatform.assets.data_run import data_run
from ftplatform.assets.reporting import check_specs, picture, result, to_dagster
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.digests import digest_json
from ftplatform.core.ids import DatasetKey, LineKey, RecipeKey
from ftplatform.core.manifests import CuratedDataset, RawDataset
from ftplatform.core.rows import rows_from_jsonl, rows_to_jsonl
from ftplatform.data.curate import Curated, curate
from ftplatform.data.expectations import run_expectations
from ftplatform.data.schema import frame
from ftplatform.data.tables import counts_table, length_histogram, markdown_table, sample_table
from ftplatform.evaluation.suite_files import suite_prompts
from ftplatform.partitions import datasets
from ftplatform.resources import Platform
from ftplatform.resources.jobs import UPLOAD_TAG, run_tag
from ftplatform.resources.platform import Parts
from ftplatform.store.cache import cache_key, cached, code_digest


@dg.asset(
    partitions_def=datasets,
    group_name="data",
    owners=["team:data-platform"],
    kinds={"pandas", "pandera", "greatexpectations"},
    check_specs=[
        *check_specs(
            "curated_dataset",
            datasets,
            {
                "schema": "every row satisfies the row schema",
                "no_pii_left": "scanning the result again finds no personal data and no key",
                "no_split_leak": "no question stands on two sides of the split",
                "no_suite_overlap": "no row asks a question of an evaluation suite",
                "enough_rows": "what is left is enough to train on",
                "expectations": "the Great Expectations suite of the dataset holds",
            },
        ),
        *check_specs(
            "curated_dataset",
            datasets,
            {
                "duplicates": "the same prompt has one answer",
            },
            blocking=False,
        ),
    ],
)
def curated_dataset(context: dg.AssetExecutionContext, platform: Platform, raw_dataset: RawDataset) -> Iterator[object]:
    """What is trained and tested on: every row valid, without personal data, once, and on one side of the split only."""
    with data_run(context, platform) as (parts, key):
        config = DatasetConfig.model_validate(parts.store.get_json(raw_dataset.config))
        inputs = {"raw": raw_dataset.model_dump(include={"canonical", "test_canonical", "config"}), "dataset": str(key)}
        inputs["suites"] = digest_json(sorted(suite_prompts()))
        work = cache_key("curate", code=code_digest("data/curate", "data/expectations"), inputs=inputs)
        made, reused = cached(
            parts.store, "curate", work, lambda: _work(parts, key, raw_dataset, config), needs=_objects
        )

        checks = [CheckResult(**check) for check in made["checks"]]
        for check in checks:
            yield to_dagster(check)
        stopped = blocking(checks)
        # A run of this asset alone works on the latest raw_dataset, whose upload is judged already.
        upload = run_tag(context.instance, context.run_id, UPLOAD_TAG)
        if stopped:
            message = " ".join(f"{check.name}: {check.message}" for check in stopped)
            if upload:
                parts.catalog.datasets.judge(int(upload), "refused", message, raw_dataset.report)
            raise dg.Failure(description=f"Refused after curation: {message}", allow_retries=False)

        manifest = CuratedDataset.model_validate(made["manifest"])
        parts.store.put_doc(f"versions/curated_dataset/{key}/{manifest.content_digest}", made["manifest"])
        parts.catalog.datasets.set_curated(key, manifest.content_digest)
        if upload:
            rows = f"{sum(manifest.rows.values())} rows"
            parts.catalog.datasets.judge(int(upload), "accepted", rows, raw_dataset.report)
        for recipe in config.train_with:
            parts.catalog.jobs.add_line(LineKey(key, RecipeKey.parse(recipe)))
        if reused:
            context.log.info(
                "Unchanged: the rows, settings and code are those of an earlier version; nothing was worked again."
            )
        yield result(manifest, _metadata(parts, manifest, made), reused=reused)


def _work(parts: Parts, key: DatasetKey, raw: RawDataset, config: DatasetConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return _work_in(folder, parts, key, raw, config)


def _work_in(folder: str, parts: Parts, key: DatasetKey, raw: RawDataset, config: DatasetConfig) -> dict[str, Any]:
    rows = rows_from_jsonl(parts.store.get_bytes(raw.canonical))
    test_rows = rows_from_jsonl(parts.store.get_bytes(raw.test_canonical)) if raw.test_canonical else []
    curated = curate(rows, test_rows, config, suite_prompts())
    docs = Path(folder)
    kept = [row for split in curated.splits.values() for row in split]
    expected = run_expectations(frame(kept), docs, f"{key.tenant}-{key.name}", config.min_rows)
    failed = [found for found in expected.results if not found["success"]]
    message = f"{len(expected.results)} expectations, {len(failed)} not met"
    checks = [*curated.checks, CheckResult("expectations", expected.success, message, rows=failed)]
    manifest = CuratedDataset(
        dataset=str(key),
        splits={name: parts.store.put_bytes(rows_to_jsonl(split)) for name, split in curated.splits.items()},
        rows={name: len(split) for name, split in curated.splits.items()},
        config=raw.config,
        removed=curated.removed,
        pii=curated.pii,
    )
    return {
        "manifest": manifest.model_dump(mode="json"),
        "checks": [{name: getattr(check, name) for name in check.__slots__} for check in checks],
        "lengths": parts.store.put_bytes(_histogram(curated)),
        "data_docs": parts.store.put_tree(expected.docs),
        "expectations": markdown_table(expected.results),
    }


def _objects(made: dict[str, Any]) -> list[str]:
    return [*made["manifest"]["splits"].values(), made["manifest"]["config"], made["lengths"], made["data_docs"]]


def _histogram(curated: Curated) -> bytes:
    lengths = [
        sum(len(message.content) for message in row.messages) for split in curated.splits.values() for row in split
    ]
    return length_histogram(lengths, "length of rows", "characters")


def _metadata(parts: Parts, manifest: CuratedDataset, made: dict[str, Any]) -> dict[str, Any]:
    first = rows_from_jsonl(parts.store.get_bytes(manifest.splits["train"]))[:5]
    return {
        **{f"rows_{name}": count for name, count in manifest.rows.items()},
        "removed": dg.MetadataValue.md(counts_table(dict(manifest.removed), "reason")),
        "personal data replaced": dg.MetadataValue.md(counts_table(dict(manifest.pii), "entity", "findings")),
        "first rows": dg.MetadataValue.md(sample_table(first)),
        "lengths": picture(parts.store.get_bytes(made["lengths"]), "length of rows"),
        "expectations": dg.MetadataValue.md(made["expectations"]),
        "data docs": dg.MetadataValue.path(_lay_out_docs(parts, manifest.dataset, made["data_docs"])),
    }


def _lay_out_docs(parts: Parts, dataset: str, tree: str) -> str:
    """The pages on this machine's disk, one folder per content; the store has them for every other machine."""
    folder = parts.settings.home / "data-docs" / dataset / tree[:12]
    if not folder.exists():
        parts.store.fetch_tree(tree, folder)
    return str(folder / "index.html")
