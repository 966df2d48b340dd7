"""``curated_dataset``: canonical rows, scrubbed, de-duplicated, decontaminated and split."""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from ftplatform.assets.data_run import data_run
from ftplatform.assets.reporting import check_specs, picture, result, to_dagster
from ftplatform.core.checks import CheckResult, blocking
from ftplatform.core.dataset_config import DatasetConfig
from ftplatform.core.digests import digest_bytes, digest_json
from ftplatform.core.ids import DatasetKey, LineKey, RecipeKey
from ftplatform.core.manifests import CuratedDataset, RawDataset
from ftplatform.data.blocks import read_rows
from ftplatform.data.curation.curate import Accepted, Curated, Surroundings, curate
from ftplatform.data.curation.erasure import changes
from ftplatform.data.curation.expectations import run_expectations
from ftplatform.data.curation.prepare import as_json
from ftplatform.data.curation.profile_picture import draw_profile
from ftplatform.data.tables import counts_table, markdown_table, sample_table
from ftplatform.evaluation.suite_files import prompts_by_suite
from ftplatform.partitions import datasets
from ftplatform.resources import Platform
from ftplatform.resources.jobs import UPLOAD_TAG, curation_doc, curation_docs, run_tag, version_doc
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
                "contamination": "no training row repeats a held-out row, a suite, or a row held out before",
                "enough_rows": "what is left is enough to train on",
                "expectations": "the Great Expectations suite of the dataset and its tenant holds",
                "toxicity": "no more toxic rows than dataset.yaml tolerates",
            },
        ),
        *check_specs(
            "curated_dataset",
            datasets,
            {
                "duplicates": "the same prompt has one answer",
                "near_duplicates": "no row nearly repeats an earlier one",
                "language": "rows are in the languages the dataset allows",
            },
            blocking=False,
        ),
    ],
)
def curated_dataset(context: dg.AssetExecutionContext, platform: Platform, raw_dataset: RawDataset) -> Iterator[object]:
    """What is trained and tested on: every row valid, without personal data, once, and on one side of the split only."""
    with data_run(context, platform) as (parts, key):
        config = DatasetConfig.model_validate(parts.store.get_json(raw_dataset.config))
        before = _index_in_use(parts, key)
        suites, earlier = prompts_by_suite(), _earlier_heldout(parts, key, raw_dataset)
        inputs = {
            "raw": _made_of(raw_dataset),
            "dataset": str(key),
            "suites": digest_json({name: list(prompts) for name, prompts in suites.items()}),
            "earlier": earlier,
            # Pseudonyms and the erasure index are keyed by it.
            "secret": digest_bytes(b"ftplatform/secret/" + parts.secret(key.tenant)),
        }
        around = Surroundings(suites, tuple(parts.store.path(one) for one in earlier), parts.secret(key.tenant))
        work = cache_key(
            "curate",
            code=code_digest("data/curation/curate", "data/curation/expectations", "data/curation/erasure"),
            inputs=inputs,
        )
        made, reused = cached(
            parts.store, "curate", work, lambda: _work(parts, key, raw_dataset, config, around), needs=_objects
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
        parts.store.put_doc(version_doc(key, manifest.content_digest), made["manifest"])
        made_of = _made_of(raw_dataset)
        parts.store.put_doc(
            curation_doc(key, manifest.content_digest, made_of),
            {"index": made["index"], "earlier": earlier, "made_of": made_of},
        )
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
        yield result(manifest, _metadata(parts, manifest, made) | _changes(parts, made["index"], before), reused=reused)


def _made_of(raw: RawDataset) -> str:
    """What a version is made of: the accepted rows and the settings."""
    return digest_json(raw.model_dump(include={"canonical", "validation_canonical", "test_canonical", "config"}))


def _earlier_heldout(parts: Parts, key: DatasetKey, raw: RawDataset) -> list[str]:
    """The test rows the version in use was judged by: what was chosen on them must not be trained on next.

    The same rows and settings as those of the version in use have the same earlier rows as it had: they are it.
    """
    version = parts.catalog.datasets.curated(key)
    if version is None:
        return []
    before = parts.store.find_doc(curation_doc(key, version, _made_of(raw)))
    if before is not None:
        return list(before["earlier"])
    return [CuratedDataset.model_validate(parts.store.get_doc(version_doc(key, version))).splits["test"]]


def _work(
    parts: Parts, key: DatasetKey, raw: RawDataset, config: DatasetConfig, around: Surroundings
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        accepted = Accepted(
            parts.store.path(raw.canonical),
            _path(parts, raw.validation_canonical),
            _path(parts, raw.test_canonical),
        )
        workers = parts.workers(sum(path.stat().st_size for path, _ in accepted.parts()))
        curated = curate(accepted, config, around, folder / "work", workers=workers)
        return _made(parts, key, raw, config, curated, folder)


def _path(parts: Parts, digest: str | None) -> Path | None:
    return parts.store.path(digest) if digest else None


def _made(
    parts: Parts, key: DatasetKey, raw: RawDataset, config: DatasetConfig, curated: Curated, folder: Path
) -> dict[str, Any]:
    """What is kept of the work: a JSON document that names objects."""
    profile = curated.verified.profile
    expected = run_expectations(
        profile, folder / "docs", f"{key.tenant}-{key.name}", config.min_rows, config.expectations
    )
    failed = [found for found in expected.results if not found["success"]]
    message = f"{len(expected.results)} expectations, {len(failed)} not met"
    checks = [*curated.checks, CheckResult("expectations", expected.success, message, rows=failed)]
    manifest = CuratedDataset(
        dataset=str(key),
        splits={name: parts.store.put_file(path) for name, path in curated.splits.items()},
        rows=curated.rows,
        config=raw.config,
        removed=curated.removed,
        pii=dict(sorted(curated.totals.pii.items())),
    )
    drawn = draw_profile(profile, curated.verified.answers, curated.totals.languages, curated.rows, curated.removed)
    return {
        "manifest": manifest.model_dump(mode="json"),
        "checks": [{name: getattr(check, name) for name in check.__slots__} for check in checks],
        "counts": as_json(curated.totals),
        "pii_examples": curated.totals.pii_examples,
        "profile": parts.store.put_bytes(drawn),
        "index": parts.store.put_file(curated.index),
        "data_docs": parts.store.put_tree(expected.docs),
        "expectations": markdown_table(expected.results),
    }


def _objects(made: dict[str, Any]) -> list[str]:
    named = [made["manifest"]["config"], made["profile"], made["index"], made["data_docs"]]
    return [*made["manifest"]["splits"].values(), *named]


def _metadata(parts: Parts, manifest: CuratedDataset, made: dict[str, Any]) -> dict[str, Any]:
    first = list(islice(read_rows(parts.store.path(manifest.splits["train"])), 5))
    counts = made["counts"]
    return {
        **{f"rows_{name}": count for name, count in manifest.rows.items()},
        "profile": picture(parts.store.get_bytes(made["profile"]), "lengths, answers, languages, rows"),
        "removed": dg.MetadataValue.md(counts_table(dict(manifest.removed), "reason")),
        "personal data": dg.MetadataValue.md(
            counts_table(dict(manifest.pii), "entity", "findings")
            + ("\n\n" + markdown_table(made["pii_examples"]) if made["pii_examples"] else "")
        ),
        "languages": dg.MetadataValue.md(counts_table(counts["languages"], "language")),
        "scripts": dg.MetadataValue.md(counts_table(counts["scripts"], "main script")),
        "Unicode cleaning": dg.MetadataValue.md(counts_table(counts["cleaned"], "what", "times")),
        "first rows": dg.MetadataValue.md(sample_table(first)),
        "expectations": dg.MetadataValue.md(made["expectations"]),
        "data docs": dg.MetadataValue.path(_lay_out_docs(parts, manifest.dataset, made["data_docs"])),
    }


def _index_in_use(parts: Parts, key: DatasetKey) -> str | None:
    """The index of the version in use; any of them, where several uploads came to the same rows."""
    version = parts.catalog.datasets.curated(key)
    names = parts.store.list_docs(curation_docs(key, version)) if version else []
    return str(parts.store.get_doc(names[0])["index"]) if names else None


def _changes(parts: Parts, index: str, before: str | None) -> dict[str, int]:
    if before is None:
        return {}
    found = changes(parts.store.path(index), parts.store.path(before))
    return {"rows new in this version": found.new, "rows kept": found.kept, "rows gone": found.gone}


def _lay_out_docs(parts: Parts, dataset: str, tree: str) -> str:
    """The pages on this machine's disk, one folder per content; the store has them for every other machine."""
    folder = parts.settings.home / "data-docs" / dataset / tree[:12]
    if not folder.exists():
        parts.store.fetch_tree(tree, folder)
    return str(folder / "index.html")
