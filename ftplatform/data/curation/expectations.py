"""A Great Expectations suite on the rows' scalar columns, with Data Docs that open without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplatform.core.errors import InvalidConfig
from ftplatform.data.curation.offline_html import make_offline

if TYPE_CHECKING:
    import pandas as pd

LONGEST_ROW = 200_000
"""Characters of all user (or all assistant) turns of a row, above which a row is worth a look."""
SAMPLE = 500_000
"""Rows of the profile that the expectations look at: of more, as many evenly spaced ones. The row schema, which asks
the same of every row, is checked on all of them."""
_UNUSABLE = ("expect_column_quantile_values_to_be_between",)
"""Its result cannot be written down by the library itself, which ends the whole run."""


@dataclass(frozen=True, slots=True)
class Expectations:
    success: bool
    results: list[dict[str, Any]]
    """{expectation, column, success, unexpected, observed} each."""
    docs: Path
    """Folder of the pages; ``index.html`` is the entry."""


def _library() -> Any:
    # Read when the library is imported; it would otherwise send events about its use.
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    # Imported here: three seconds, and loading the definitions must not pay them.
    import great_expectations as gx

    return gx


def build(extra: Sequence[dict[str, Any]]) -> list[Any]:
    """Great Expectations objects of ``expectations`` in dataset.yaml or a tenant's file.

    Raises:
        InvalidConfig: one of them does not exist or has wrong arguments; says which and why.
    """
    if not extra:
        return []
    _library()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    built = []
    for number, entry in enumerate(extra):
        arguments = dict(entry)
        kind = arguments.pop("type", None)
        if not isinstance(kind, str) or not kind.startswith(("expect_column_", "expect_table_")) or kind in _UNUSABLE:
            raise InvalidConfig(
                f"expectations[{number}].type is {kind!r}: accepted is a Great Expectations name such as "
                "expect_column_values_to_be_between, on the columns of the row profile"
            )
        try:
            built.append(ExpectationConfiguration(type=kind, kwargs=arguments).to_domain_obj())
        except Exception as error:
            raise InvalidConfig(f"expectations[{number}] ({kind}) cannot be used: {error}") from error
    return built


def run_expectations(
    table: pd.DataFrame, docs: Path, name: str, min_rows: int, extra: Sequence[dict[str, Any]] = ()
) -> Expectations:
    """Validate the profile of ``ftplatform.data.curation.schema.frame`` and write the pages below ``docs``.

    ``name`` (letters, digits, ``-``, ``_``) names the suite on the pages; ``extra`` are the dataset's and its tenant's
    own expectations. The context lives in memory only.

    Raises:
        InvalidConfig: an own expectation cannot be used.
    """
    own = build(extra)
    gx = _library()
    from great_expectations import expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    if len(table) > SAMPLE:
        table = table.iloc[:: -(-len(table) // SAMPLE)]
    conversations = set(table["kind"]) <= {"chat", "labelled"}
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    suite.add_expectation(gxe.ExpectTableRowCountToBeBetween(min_value=min_rows))
    suite.add_expectation(gxe.ExpectColumnValuesToBeUnique(column="source"))
    suite.add_expectation(gxe.ExpectColumnValuesToBeInSet(column="complete", value_set=[True]))
    least = 1 if conversations else 0
    suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column="turns", min_value=least, max_value=200))
    suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column="trained", min_value=least))
    suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column="empty", max_value=0))
    for column in ("user_chars", "assistant_chars"):
        suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=LONGEST_ROW))
    for expectation in own:
        suite.add_expectation(expectation)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all")
    definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
    context.add_data_docs_site(
        "docs",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
        },
    )
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add(definition)],
        actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["docs"])],
        result_format="SUMMARY",
    )
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table})
    results = [_summary(result) for run in outcome.run_results.values() for result in run.results]
    make_offline(docs, f"Expectations of {name}", results)
    return Expectations(bool(outcome.success), results, docs)


def _summary(result: Any) -> dict[str, Any]:
    kwargs = result.expectation_config.kwargs
    limits = ", ".join(f"{k}={kwargs[k]}" for k in ("min_value", "max_value", "value_set") if kwargs.get(k) is not None)
    return {
        "expectation": result.expectation_config.type.removeprefix("expect_"),
        "column": kwargs.get("column", "(table)"),
        "limits": limits,
        "success": bool(result.success),
        "unexpected": int(result.result.get("unexpected_count", 0)),
        "observed": str(result.result.get("observed_value", "")),
    }
