"""``raw_dataset``: an upload as received, hashed, with every bad row reported."""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import dagster as dg

from ftplatform.assets.data_run import data_run, upload_of
from ftplatform.assets.reporting import check_specs, page, result, to_dagster
from ftplatform.core.checks import CheckResult
from ftplatform.core.dataset_config import FILE_NAME, DatasetConfig
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.ids import DatasetKey, RecipeKey
from ftplatform.core.manifests import RawDataset, SourceFile
from ftplatform.core.tenant_config import with_tenant
from ftplatform.data.blocks import read_rows
from ftplatform.data.curation.expectations import build
from ftplatform.data.importing.ingest import Ingested, ingest
from ftplatform.data.importing.settings_file import read_settings
from ftplatform.data.language.tagging import open_tagger
from ftplatform.data.pii.scrubber import wanted_entities
from ftplatform.data.report.report import RowReport
from ftplatform.data.report.report_html import write_html
from ftplatform.data.tables import markdown_table, sample_table
from ftplatform.evaluation.suite_files import check_suites
from ftplatform.partitions import datasets
from ftplatform.resources import Platform
from ftplatform.resources.platform import Parts


@dg.asset(
    partitions_def=datasets,
    group_name="data",
    owners=["team:data-platform"],
    kinds={"file", "json"},
    check_specs=check_specs(
        "raw_dataset",
        datasets,
        {
            "settings_valid": "dataset.yaml and the tenant's settings can be used, and the recipes they name exist",
            "readable": "every file can be read as UTF-8 text of a known format",
            "rows_valid": "no more bad rows than dataset.yaml tolerates; every bad row is listed with line, field and fix",
        },
    ),
)
def raw_dataset(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[object]:
    """The customer's files of one upload: what arrived, in which format, and what is wrong with it row by row."""
    with data_run(context, platform) as (parts, key), tempfile.TemporaryDirectory() as scratch:
        upload = upload_of(context, parts, key)
        files = [SourceFile.model_validate(file) for file in upload["files"]]

        config, settings_check = _settings(parts, key, files)
        yield to_dagster(settings_check)
        if not settings_check.passed:
            parts.catalog.datasets.judge(upload["seq"], "refused", settings_check.message, None)
            raise dg.Failure(
                description=f"Upload {upload['seq']} refused: {settings_check.message}", allow_retries=False
            )

        data = [(file.name, parts.store.path(file.digest)) for file in files if file.name != FILE_NAME]
        found = ingest(data, config, Path(scratch), workers=parts.workers(sum(file.size for file in files)))
        manifest = _manifest(parts, key, files, config, found, Path(scratch))
        for check in _row_checks(found.report):
            yield to_dagster(check)
        context.log.info(found.report.summary())
        shown = {
            "findings": dg.MetadataValue.md(found.report.markdown()),
            "row report": page(parts, manifest.page, f"{key}/upload-{upload['seq']}", "report.html"),
        }
        if found.report.refused:
            parts.catalog.datasets.judge(upload["seq"], "refused", found.report.summary(), manifest.report)
            raise dg.Failure(
                description=f"Upload {upload['seq']}. {found.report.summary()}",
                metadata={**shown, "report": manifest.report},
                allow_retries=False,
            )
        yield result(manifest, _metadata(upload["seq"], files, found) | shown)


def _settings(parts: Parts, key: DatasetKey, files: list[SourceFile]) -> tuple[DatasetConfig, CheckResult]:
    """dataset.yaml of the upload under its tenant's settings; what it names is looked up now, because later nobody is
    there to mend a typo.
    """
    yaml_file = next((file for file in files if file.name == FILE_NAME), None)
    try:
        value = read_settings(parts.store.get_bytes(yaml_file.digest), FILE_NAME) if yaml_file else None
        config = with_tenant(value, parts.tenant_config(key.tenant))
        for recipe in config.train_with:
            parts.catalog.recipes.get(RecipeKey.parse(recipe))
        check_suites(config)
        wanted_entities(config.pii)
        open_tagger(config.tagging)
        build(config.expectations)
    except (InvalidConfig, NotFound) as error:
        return DatasetConfig(), CheckResult("settings_valid", False, message=f"{FILE_NAME}: {error}")
    message = f"{FILE_NAME} is valid" if yaml_file else f"no {FILE_NAME}: every default holds"
    return config, CheckResult("settings_valid", True, message=message)


def _row_checks(report: RowReport) -> list[CheckResult]:
    rows_valid = report.bad_rows <= report.max_bad_rows
    return [
        CheckResult(
            "readable",
            not report.whole_errors,
            message="; ".join(f"{f.file}: {f.found}" for f in report.whole)
            or f"{len(report.files)} file(s), {report.format}",
            rows=[f.to_json() for f in report.whole],
        ),
        CheckResult(
            "rows_valid",
            rows_valid,
            message=f"{report.bad_rows} of {report.read} rows are bad, {report.max_bad_rows} may be",
            numbers={"bad_rows": report.bad_rows, "max_bad_rows": report.max_bad_rows, "rows": report.read},
            rows=[f.to_json() for f in report.errors if f.line][:20],
        ),
    ]


def _manifest(
    parts: Parts, key: DatasetKey, files: list[SourceFile], config: DatasetConfig, found: Ingested, scratch: Path
) -> RawDataset:
    write_html(found.report, scratch / "report.html", f"Row report of {key}", f"ft dataset report {key} --output FILE")

    def stored(path: Path | None) -> str | None:
        return parts.store.put_file(path) if path else None

    return RawDataset(
        dataset=str(key),
        files=tuple(files),
        format=found.report.format,
        rows=found.report.accepted,
        bad_rows=found.report.bad_rows,
        report=parts.store.put_file(found.findings),
        page=parts.store.put_file(scratch / "report.html"),
        canonical=parts.store.put_file(found.canonical),
        validation_canonical=stored(found.validation),
        test_canonical=stored(found.test),
        config=parts.store.put_json(config.model_dump(mode="json")),
    )


def _metadata(seq: int, files: list[SourceFile], found: Ingested) -> dict[str, object]:
    return {
        "upload": seq,
        "rows": found.report.accepted,
        "bad_rows": found.report.bad_rows,
        "format": found.report.format,
        "bytes": sum(file.size for file in files),
        "files": dg.MetadataValue.md(markdown_table([file.model_dump() for file in files])),
        "first rows": dg.MetadataValue.md(sample_table(islice(read_rows(found.canonical), 5))),
    }
