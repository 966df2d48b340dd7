"""A tenant's settings hold for all its datasets; its secret is its own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from platform_support import Bench

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.ids import DatasetKey
from ftplatform.core.tenant_config import TenantConfig, parse_tenant_config, with_tenant
from ftplatform.resources.secret import deployment_key, read_or_make
from ftplatform.resources.trace import trace
from ftplatform.settings import load_settings


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_is_required_wins_over_the_dataset_and_defaults_fill_what_it_leaves_out() -> None:
    tenant = parse_tenant_config(
        {
            "defaults": {"language": {"allow": ["en", "hi"]}, "max_bad_rows": 5},
            "required": {"pii": {"policy": "pseudonym", "entities": {"IN_PAN": "drop_row"}}},
        },
        "acme.yaml",
    )
    config = with_tenant({"max_bad_rows": 2, "pii": {"policy": "off", "entities": {"JWT": "mask"}}}, tenant)
    assert config.max_bad_rows == 2
    assert config.language.allow == ("en", "hi")
    assert config.pii.policy == "pseudonym"
    assert config.pii.entities == {"JWT": "mask", "IN_PAN": "drop_row"}
    assert with_tenant(None, tenant).max_bad_rows == 5


def test_expectations_of_tenant_and_dataset_add_up() -> None:
    theirs = {"type": "expect_column_values_to_be_between", "column": "turns", "max_value": 9}
    own = {"type": "expect_column_values_to_be_in_set", "column": "kind", "value_set": ["chat"]}
    tenant = TenantConfig(expectations=(theirs,))
    assert with_tenant({"expectations": [own]}, tenant).expectations == (theirs, own)


def test_a_wrong_field_of_a_tenant_is_named() -> None:
    with pytest.raises(InvalidConfig, match=r"acme.yaml cannot be used(.|\n)*required(.|\n)*pii.polcy"):
        parse_tenant_config({"required": {"pii": {"polcy": "off"}}}, "acme.yaml")


def test_a_datasets_own_mistake_is_reported_as_its_own() -> None:
    with pytest.raises(InvalidConfig, match=r"dataset\.yaml cannot be used"):
        with_tenant({"max_bad_rows": -1}, TenantConfig())


def test_the_secret_is_made_once_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret-key"
    key = read_or_make(path)
    assert len(key) == 32
    assert read_or_make(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_secret_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2")
    with pytest.raises(InvalidConfig, match="at least 64 hexadecimal"):
        read_or_make(tmp_path / "key")


def test_pods_share_the_key_of_the_environment_and_make_none_of_their_own(tmp_path: Path) -> None:
    home = {"FTPLATFORM_HOME": str(tmp_path / "own")}
    pod = load_settings(home | {"FTPLATFORM_EXECUTOR": "k8s", "FTPLATFORM_SECRET_KEY": "ab" * 32})
    assert deployment_key(pod) == b"\xab" * 32
    assert "abab" not in repr(pod)
    with pytest.raises(InvalidConfig, match="FTPLATFORM_SECRET_KEY is not set"):
        deployment_key(load_settings(home | {"FTPLATFORM_EXECUTOR": "k8s"}))
    with pytest.raises(InvalidConfig, match="FTPLATFORM_SECRET_KEY holds 7"):
        deployment_key(load_settings(home | {"FTPLATFORM_SECRET_KEY": "hunter2"}))
    assert not (tmp_path / "own").exists()
    laptop = load_settings(home)
    assert deployment_key(laptop) == read_or_make(laptop.secret_file)


def _rows(address: str) -> str:
    lines = [f'{{"prompt": "question {i} about order {i * 7919}", "completion": "answer {i}"}}' for i in range(40)]
    return "\n".join([*lines, f'{{"prompt": "please write to {address}", "completion": "gladly"}}']) + "\n"


def test_a_tenants_file_reaches_its_datasets_and_no_others(bench: Bench) -> None:
    folder = bench.parts.settings.tenants
    folder.mkdir(parents=True)
    (folder / "acme.yaml").write_text("required: {pii: {policy: drop_row}}\n")
    removed = {}
    for tenant in ("acme", "globex"):
        result = bench.data_run(f"{tenant}/support", {"rows.jsonl": _rows("jo@example.com")})
        removed[tenant] = result.output_for_node("curated_dataset").removed
    assert removed == {"acme": {"personal_data": 1}, "globex": {}}
    (folder / "acme.yaml").write_text("required: {pii: {polcy: drop_row}}\n")
    refused = bench.data_run("acme/support", {"rows.jsonl": _rows("al@example.com")})
    assert "acme.yaml cannot be used" in bench.failure(refused)


def test_a_person_is_traced_to_the_versions_that_hold_their_rows(bench: Bench) -> None:
    more = '{"prompt": "one more question about the garden", "completion": "gladly"}\n'
    assert bench.data_run("acme/support", {"rows.jsonl": _rows("jo@example.com")}).success
    assert bench.data_run("acme/support", {"rows.jsonl": _rows("al@example.com") + more}).success
    key = DatasetKey.parse("acme/support")
    (found,) = trace(bench.parts, key, subject="Jo@Example.com")
    assert not found.in_use
    assert [row.source for row in found.rows] == ["rows.jsonl:41"]
    assert found.trained == ()
    (now,) = trace(bench.parts, key, subject="al@example.com")
    assert now.in_use
    assert list(trace(bench.parts, key, subject="nobody@example.com")) == []
    assert len(list(trace(bench.parts, key, source="rows.jsonl:3"))) == 2


def test_two_people_whose_scrubbed_rows_are_the_same_are_both_found(bench: Bench) -> None:
    for address in ("jo@example.com", "al@example.com"):
        assert bench.data_run("acme/support", {"rows.jsonl": _rows(address)}).success
    found = [
        list(trace(bench.parts, DatasetKey("acme", "support"), subject=who))
        for who in ("jo@example.com", "al@example.com")
    ]
    assert [len(one) for one in found] == [1, 1]
    assert found[0][0].version == found[1][0].version
