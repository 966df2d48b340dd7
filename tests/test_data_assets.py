"""The data run through the real assets: what becomes visible, and what does not."""

from __future__ import annotations

import json
import re

import dagster as dg
import pytest
from platform_support import Bench, chat_rows, dataset_yaml

from ftplatform import assets
from ftplatform.core.ids import DatasetKey
from ftplatform.resources.jobs import latest_doc

SUPPORT, OTHER = "acme/support", "globex/faq"


@pytest.fixture
def bench() -> Bench:
    return Bench()


def _bad(rows: str, every: int) -> str:
    """Each ``every``-th row without messages."""
    lines = rows.splitlines()
    return "\n".join('{"messages": []}' if i % every == 0 else line for i, line in enumerate(lines)) + "\n"


def test_a_good_upload_becomes_a_version(bench: Bench) -> None:
    result = bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(60)})
    assert result.success
    manifest = result.output_for_node("curated_dataset")
    assert sum(manifest.rows.values()) == 60
    assert bench.parts.catalog.datasets.curated(DatasetKey.parse(SUPPORT)) == manifest.content_digest
    assert bench.parts.catalog.datasets.get_upload(DatasetKey.parse(SUPPORT))["state"] == "accepted"
    versions = {
        e.asset_key.path[-1]: e.step_materialization_data.materialization
        for e in result.get_asset_materialization_events()
    }
    tags = versions["curated_dataset"].tags or {}
    assert tags["dagster/data_version"] == manifest.content_digest


def test_a_refused_upload_leaves_everything_as_it_was(bench: Bench) -> None:
    """The latest materialization, its manifest, and two other tenants' check statuses."""
    for dataset in (SUPPORT, OTHER, "initech/help"):
        assert bench.data_run(dataset, {"rows.jsonl": chat_rows(60)}).success
    before = bench.parts.store.get_doc(latest_doc("curated_dataset", SUPPORT))
    materialized = bench.instance.get_latest_materialization_event(dg.AssetKey("raw_dataset"))
    result = bench.data_run(SUPPORT, {"rows.jsonl": _bad(chat_rows(100), 50)})
    assert not result.success
    assert "2 of 100 rows are bad" in bench.failure(result)
    assert bench.parts.store.get_doc(latest_doc("curated_dataset", SUPPORT)) == before
    assert bench.instance.get_latest_materialization_event(dg.AssetKey("raw_dataset")) == materialized
    assert bench.check("raw_dataset", "rows_valid", SUPPORT) == "FAILED"
    for tenant in (OTHER, "initech/help"):
        assert bench.check("raw_dataset", "rows_valid", tenant) == "SUCCEEDED"
    upload = bench.parts.catalog.datasets.get_upload(DatasetKey.parse(SUPPORT))
    assert upload["state"] == "refused"
    findings = [json.loads(line) for line in bench.parts.store.get_bytes(upload["report"]).splitlines()]
    assert len([found for found in findings if found["severity"] == "error"]) == 2

    assert bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(80)}).success, "the next good upload works"
    assert bench.parts.store.get_doc(latest_doc("curated_dataset", SUPPORT)) != before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (chat_rows(30).encode("utf-16"), "UTF-16"),
        (chat_rows(30).encode()[:-30], "half|cut|truncated|ends"),
        (_bad(chat_rows(30), 1).encode(), "30 of 30 rows are bad"),
        (chat_rows(3).encode(), "min_rows"),
    ],
    ids=["empty", "utf-16", "half-written", "all rows bad", "too few"],
)
def test_bad_input_is_refused_with_the_reason(bench: Bench, content: bytes, says: str) -> None:
    result = bench.data_run(SUPPORT, {"rows.jsonl": content})
    assert not result.success
    assert re.search(says, bench.failure(result), re.IGNORECASE), bench.failure(result)
    assert bench.parts.store.find_doc(latest_doc("raw_dataset", SUPPORT)) is None
    assert bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(30)}).success


def test_a_wrong_setting_names_every_wrong_field(bench: Bench) -> None:
    config = dataset_yaml(split={"test": 3}, max_bad_rows=-1, colour="red")
    message = bench.failure(bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(30), "dataset.yaml": config}))
    for field in ("split.test", "max_bad_rows", "colour"):
        assert field in message


def test_an_unknown_recipe_is_said_at_the_door(bench: Bench) -> None:
    config = dataset_yaml(train_with=["nowhere@1"])
    message = bench.failure(bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(30), "dataset.yaml": config}))
    assert "nowhere@1 is unknown" in message


def test_tolerated_bad_rows_are_dropped_and_counted(bench: Bench) -> None:
    files = {"rows.jsonl": _bad(chat_rows(100), 50), "dataset.yaml": dataset_yaml(max_bad_rows=2)}
    result = bench.data_run(SUPPORT, files)
    assert result.success
    assert result.output_for_node("raw_dataset").bad_rows == 2
    assert sum(result.output_for_node("curated_dataset").rows.values()) == 98


def test_unchanged_rows_are_not_curated_again(bench: Bench) -> None:
    first = bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(60)})
    again = bench.run(assets.DATA, SUPPORT)
    assert _reused(first, "curated_dataset") is False
    assert _reused(again, "curated_dataset") is True
    assert again.output_for_node("curated_dataset") == first.output_for_node("curated_dataset")
    changed = bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(60).replace("Ticket number 7:", "Ticket number 7;")})
    assert _reused(changed, "curated_dataset") is False


def test_personal_data_does_not_reach_the_version(bench: Bench) -> None:
    rows = chat_rows(40).replace("Ticket number 5:", "Write to jane.doe@example.com about ticket 5:")
    result = bench.data_run(SUPPORT, {"rows.jsonl": rows})
    manifest = result.output_for_node("curated_dataset")
    text = b"".join(bench.parts.store.get_bytes(digest) for digest in manifest.splits.values())
    assert b"jane.doe" not in text
    assert manifest.pii == {"EMAIL_ADDRESS": 1}


def test_the_customers_own_test_file_is_the_test_split(bench: Bench) -> None:
    files = {
        "train.csv": "question,label\n" + "".join(f"how do I do thing {i}?,thing\n" for i in range(40)),
        "test.csv": "question,label\n"
        + "".join(f"what about part {i}?,part\n" for i in range(15))
        + "how do I do thing 3?,thing\n",
        "dataset.yaml": dataset_yaml(
            format="csv", columns={"user": "question", "assistant": "label"}, split={"test_files": ["test.csv"]}
        ),
    }
    result = bench.data_run(SUPPORT, files)
    assert result.success, bench.failure(result)
    manifest = result.output_for_node("curated_dataset")
    assert manifest.rows["test"] == 16
    assert manifest.removed["leak"] == 1, "the training row whose question is in the test file"


def _reused(result, asset: str) -> bool:
    for event in result.get_asset_materialization_events():
        if event.asset_key.path[-1] == asset:
            return bool(event.step_materialization_data.materialization.metadata["reused"].value)
    raise AssertionError(f"{asset} was not materialized")


def test_a_misspelt_suite_or_margin_is_said_at_the_door(bench: Bench) -> None:
    for config, says in (
        (dataset_yaml(suites=["saftey"]), "saftey"),
        (dataset_yaml(margins={"heldot": 0.01}), "heldot"),
        (dataset_yaml(margins={"safety": 0.5}), "tightened"),
        (dataset_yaml(pii={"allow": ["NAME"]}), "NAME"),
    ):
        message = bench.failure(bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(30), "dataset.yaml": config}))
        assert says in message


def test_an_older_upload_cannot_bring_the_older_rows_back(bench: Bench) -> None:
    first = bench.push(SUPPORT, {"rows.jsonl": chat_rows(60)})
    assert bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(80)}).success
    before = bench.parts.store.get_doc(latest_doc("curated_dataset", SUPPORT))
    assert "older" in bench.failure(bench.run(assets.DATA, SUPPORT, {"ft/upload": str(first)}))
    assert bench.parts.store.get_doc(latest_doc("curated_dataset", SUPPORT)) == before


def test_one_data_run_of_a_dataset_at_a_time(bench: Bench) -> None:
    bench.parts.catalog.leases.acquire(f"dataset:{SUPPORT}", "another-run", 60)
    assert "another-run" in bench.failure(bench.data_run(SUPPORT, {"rows.jsonl": chat_rows(30)}))
    assert bench.parts.catalog.datasets.get_upload(DatasetKey.parse(SUPPORT))["state"] == "pending"
