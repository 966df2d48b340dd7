from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from ftplatform.catalog import Catalog, open_catalog
from ftplatform.catalog.migrate import HEAD, SCRIPTS
from ftplatform.catalog.tables import metadata
from ftplatform.core.errors import Conflict, NotFound
from ftplatform.core.ids import BaseKey, DatasetKey, LineKey
from ftplatform.core.manifests import SourceFile
from ftplatform.core.plan import PinnedChampion
from ftplatform.core.recipe import parse_recipe

SUPPORT = DatasetKey("acme", "support")
LINE = LineKey.parse("acme/support|tiny@1")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same promises on both databases; on Postgres each test has a database of its own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    server = request.getfixturevalue("postgres_url")
    name = f"t{abs(hash(tmp_path)):x}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.replace("/postgres?", f"/{name}?", 1)


@pytest.fixture
def catalog(url: str) -> Catalog:
    return open_catalog(url)


def _file(name: str = "a.jsonl", digest: str = "0" * 64) -> SourceFile:
    return SourceFile(name=name, digest=digest, size=1)


def _recipe(rate: float = 0.1, version: int = 1):
    return parse_recipe({"name": "tiny", "version": version, "base": "starter", "training": {"learning_rate": rate}})


def test_many_processes_can_open_a_new_catalog_at_once(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for catalog in pool.map(lambda _: open_catalog(url), range(8)):
            assert catalog.jobs.all() == []


def test_the_migrations_make_exactly_the_tables(catalog: Catalog) -> None:
    with catalog.engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []
    assert ScriptDirectory(str(SCRIPTS)).get_current_head() == HEAD


def test_the_same_set_of_files_is_one_upload(catalog: Catalog) -> None:
    assert catalog.datasets.upload(SUPPORT, [_file()], "push") == (1, True)
    assert catalog.datasets.upload(SUPPORT, [_file()], "folder") == (1, False)
    second, new = catalog.datasets.upload(SUPPORT, [_file(digest="1" * 64)], "push")
    assert new
    assert second > 1
    back, new = catalog.datasets.upload(SUPPORT, [_file()], "push")
    assert new, "going back to earlier content is a new upload: only the newest counts as the same"
    assert [u["seq"] for u in catalog.datasets.list_uploads(SUPPORT)] == [1, second, back]


def test_an_upload_of_another_dataset_is_not_found(catalog: Catalog) -> None:
    sequence, _ = catalog.datasets.upload(SUPPORT, [_file()], "push")
    with pytest.raises(NotFound):
        catalog.datasets.get_upload(DatasetKey("globex", "faq"), sequence)


def test_a_recipe_never_changes_under_its_number(catalog: Catalog) -> None:
    assert catalog.recipes.add(_recipe())
    assert not catalog.recipes.add(_recipe())
    with pytest.raises(Conflict, match="version: 2"):
        catalog.recipes.add(_recipe(rate=0.2))
    assert catalog.recipes.add(_recipe(rate=0.2, version=2))
    assert catalog.recipes.get(_recipe().key).training.learning_rate == 0.1


def test_an_unknown_name_lists_the_known_ones(catalog: Catalog) -> None:
    catalog.recipes.add(_recipe())
    with pytest.raises(NotFound, match="tiny@1"):
        catalog.recipes.get(_recipe(version=7).key)
    catalog.bases.add(BaseKey("starter", "0" * 8), {"kind": "starter"})
    with pytest.raises(NotFound, match="starter"):
        catalog.bases.newest("llama")


def test_a_lease_has_one_holder_and_its_token_grows(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("ftplatform.catalog.leases.now", lambda: clock[0])
    first = catalog.leases.acquire("line:x", "job-1", 60)
    assert catalog.leases.acquire("line:x", "job-1", 60) == first, "renewing keeps the token"
    with pytest.raises(Conflict, match="job-1"):
        catalog.leases.acquire("line:x", "job-2", 60)
    clock[0] += 61
    assert catalog.leases.acquire("line:x", "job-2", 60) > first, "a dead holder is replaced and can be told apart"
    catalog.leases.release("line:x", "job-1")
    with pytest.raises(Conflict, match="job-2"):
        catalog.leases.acquire("line:x", "job-1", 60)
    catalog.leases.release("line:x", "job-2")
    assert catalog.leases.acquire("line:x", "job-1", 60) > first + 1


def test_a_held_lease_is_renewed_while_the_work_runs_and_given_up_after(catalog: Catalog) -> None:
    with catalog.leases.hold("dataset:x", "run-1", 0.4):
        time.sleep(1.0)
        with pytest.raises(Conflict, match="taken by run-1"):
            catalog.leases.acquire("dataset:x", "run-2", 60)
    catalog.leases.acquire("dataset:x", "run-2", 60)


def test_work_that_lost_its_lease_does_not_end_well(catalog: Catalog) -> None:
    def work() -> None:
        with catalog.leases.hold("dataset:x", "run-1", 2.0):
            catalog.leases.release("dataset:x", "run-1")  # as if this process had slept past the end
            catalog.leases.acquire("dataset:x", "run-2", 60)
            time.sleep(1.0)

    with pytest.raises(Conflict, match="taken by run-2"):
        work()


def test_one_of_many_gets_the_lease(catalog: Catalog) -> None:
    def attempt(number: int) -> bool:
        try:
            catalog.leases.acquire("line:x", f"job-{number}", 60)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_a_champion_is_swapped_only_against_the_one_it_was_compared_with(catalog: Catalog) -> None:
    def champion(version: int) -> PinnedChampion:
        return PinnedChampion(version=version, kind="lora", weights=str(version) * 64, base_weights="b" * 64)

    catalog.champions.swap("acme.support", None, champion(1), "ft:1", "test")
    with pytest.raises(Conflict, match="found 1"):
        catalog.champions.swap("acme.support", None, champion(2), "ft:2", "test")
    catalog.champions.swap("acme.support", 1, champion(2), "ft:2", "test")
    with pytest.raises(Conflict, match="found 2"):
        catalog.champions.swap("acme.support", 1, champion(3), "ft:3", "test")
    assert catalog.champions.pinned("acme.support") == champion(2)
    with catalog.engine.begin() as db:
        changes = db.execute(text("SELECT subject, action FROM audit ORDER BY id")).all()
    assert [tuple(change) for change in changes] == [("acme.support", "champion")] * 2


def test_a_served_name_never_changes_its_meaning(catalog: Catalog) -> None:
    def want(weights: str) -> None:
        catalog.serving.want(
            "ft:x",
            model="acme.support",
            kind="lora",
            weights=weights,
            base_weights="b" * 64,
            template="t" * 64,
            fingerprint=None,
        )

    want("1" * 64)
    want("1" * 64)
    catalog.serving.retire("ft:x")
    with pytest.raises(Conflict, match="never changes"):
        want("2" * 64)
    assert catalog.serving.wanted() == []


def test_older_versions_are_retired_but_never_the_routed_one(catalog: Catalog) -> None:
    for number in range(4):
        catalog.serving.want(
            f"ft:{number}",
            model="m",
            kind="lora",
            weights=str(number) * 64,
            base_weights="b" * 64,
            template="t" * 64,
            fingerprint=None,
        )
    catalog.serving.set_route("m", [("ft:0", 1.0)], "test")
    catalog.serving.retire_older("m", keep=2)
    assert {row["name"] for row in catalog.serving.wanted()} == {"ft:0", "ft:2", "ft:3"}


def test_a_queued_job_that_is_cancelled_never_starts(catalog: Catalog) -> None:
    job = catalog.jobs.submit(LINE, "submitted")
    running = catalog.jobs.submit(LINE, "submitted", state="running")
    catalog.jobs.cancel(job)
    catalog.jobs.cancel(running)
    assert catalog.jobs.get(job)["state"] == "cancelled"
    assert catalog.jobs.get(running)["state"] == "running", "a running one ends when its launcher has stopped it"
    assert catalog.jobs.wants_cancel(running)
    assert catalog.jobs.queued() == []
