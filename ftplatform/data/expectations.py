"""A Great Expectations suite on the rows' scalar columns, with Data Docs that open without a network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplatform.data.offline_html import make_offline

if TYPE_CHECKING:
    import pandas as pd

LONGEST_ROW = 200_000
"""Characters of all user (or all assistant) turns of a row, above which a row is worth a look."""


@dataclass(frozen=True, slots=True)
class Expectations:
    success: bool
    results: list[dict[str, Any]]
    """{expectation, column, success, unexpected, observed} each."""
    docs: Path
    """Folder of the pages; ``index.html`` is the entry."""


def run_expectations(table: pd.DataFrame, docs: Path, name: str, min_rows: int) -> Expectations:
    """Validate the frame of ``ftplatform.data.schema.frame`` and write the pages below ``docs``.

    ``name`` (letters, digits, ``-``, ``_``) names the suite on the pages. The context lives in memory only.
    """
    # Read when the library is imported; it would otherwise send events about its use.
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    # Imported here: three seconds, and loading the definitions must not pay them.
    import great_expectations as gx
    from great_expectations import expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    suite.add_expectation(gxe.ExpectTableRowCountToBeBetween(min_value=min_rows))
    suite.add_expectation(gxe.ExpectColumnValuesToBeUnique(column="source"))
    suite.add_expectation(gxe.ExpectColumnValuesToBeInSet(column="last_role", value_set=["assistant"]))
    suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column="turns", min_value=1, max_value=200))
    suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column="trained", min_value=1))
    suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column="empty", max_value=0))
    for column in ("user_chars", "assistant_chars"):
        suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column=column, min_value=1, max_value=LONGEST_ROW))
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
