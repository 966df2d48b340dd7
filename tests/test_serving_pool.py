"""What a name means, and what is never served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from serving_support import Bench, make_bench, wait_until, write_base

from ftplatform.core.errors import Conflict, CorruptObject, InvalidConfig, NotFound
from ftplatform.data.rendering.chat_format import load_chat_format
from ftplatform.serving.desired import Route
from ftplatform.serving.embedded_errors import AlreadyLoaded, ApiError
from ftplatform.serving.embedded_pool import Pool
from ftplatform.serving.embedded_scheduler import Scheduler


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = make_bench(tmp_path_factory.mktemp("pool"))
    for seed, name in enumerate(("A", "B"), start=1):
        made.adapter(name, seed)
    return made


@pytest.fixture
def pool(bench: Bench) -> Iterator[Pool]:
    scheduler = Scheduler()
    scheduler.start()
    yield Pool(bench.store, scheduler, bench.root / "trees")
    scheduler.close()


def names(pool: Pool) -> list[str]:
    return [served.name for served in pool.models()]


def test_a_name_that_was_ever_used_is_refused_for_other_bytes_also_after_a_restart(bench: Bench, pool: Pool) -> None:
    pool.load(bench.served("one", weights=bench.adapters["A"]))
    with pytest.raises(AlreadyLoaded):
        pool.load(bench.served("one", weights=bench.adapters["A"]))
    pool.unload("one")
    scheduler = Scheduler()
    scheduler.start()
    restarted = Pool(bench.store, scheduler)
    for again in (pool, restarted):
        with pytest.raises(Conflict, match="stands for") as caught:
            again.load(bench.served("one", weights=bench.adapters["B"]))
        assert not caught.value.retry_helps
    restarted.load(bench.served("one", weights=bench.adapters["A"]))
    scheduler.close()


def test_a_load_that_failed_does_not_use_up_the_name(bench: Bench, pool: Pool) -> None:
    with pytest.raises(NotFound):
        pool.load(bench.served("two", weights="0" * 64))
    pool.load(bench.served("two", weights=bench.adapters["B"]))


def test_adapters_rendered_by_another_template_are_refused(bench: Bench, pool: Pool) -> None:
    right = load_chat_format(bench.base_folder).template.digest
    with pytest.raises(InvalidConfig, match="chat template"):
        pool.load(bench.served("A", template="f" * 64))
    pool.load(bench.served("A", template=right))
    assert names(pool) == ["A"]


def test_a_fingerprint_of_other_weights_refuses_the_load_and_nothing_stays(bench: Bench, pool: Pool) -> None:
    pool.load(bench.served("base", kind="base", weights=bench.base))
    base = pool.models()[0].instance
    with pytest.raises(InvalidConfig, match="does not answer as trained"):
        pool.load(bench.served("A", fingerprint=bench.fingerprint("B")))
    wait_until(lambda: not base._peft.peft_config, "the refused adapter is gone")
    pool.load(bench.served("A", fingerprint=bench.fingerprint("A")))
    pool.load(bench.served("B", fingerprint=bench.fingerprint("B")))
    assert names(pool) == ["base", "A", "B"]


def test_full_weights_are_a_model_of_their_own(bench: Bench, pool: Pool) -> None:
    pool.load(bench.served("base", kind="base", weights=bench.base))
    other = bench.store.put_tree(write_base(bench.root / "full", seed=9))
    pool.load(bench.served("full", kind="full", weights=other))
    first, second = pool.models()
    assert first.instance is not second.instance


def test_memory_is_given_back_when_the_last_model_of_a_base_is_gone(bench: Bench, pool: Pool) -> None:
    pool.load(bench.served("A"))
    pool.unload("A")
    assert pool._bases == {}
    pool.load(bench.served("A"))
    pool.load(bench.served("base", kind="base", weights=bench.base))
    pool.unload("A")
    assert list(pool._bases) == [bench.base]
    assert names(pool) == ["base"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"r": 4096}, "rank 4096"),
        ({"peft_type": "P_TUNING"}, "peft_type"),
    ],
)
def test_an_adapter_that_cannot_be_switched_is_refused_and_says_why(
    bench: Bench, pool: Pool, tmp_path: Path, change: dict, reason: str
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(bench.root / "A", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(InvalidConfig, match=reason):
        pool.load(bench.served("odd", weights=bench.store.put_tree(folder)))
    assert names(pool) == []


def test_an_adapter_for_another_base_is_refused_and_the_base_still_answers(
    bench: Bench, pool: Pool, tmp_path: Path
) -> None:
    pool.load(bench.served("base", kind="base", weights=bench.base))
    folder = tmp_path / "misfit"
    shutil.copytree(bench.root / "A", folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    for change in ({"w": next(iter(tensors))}, {"drop": next(iter(tensors))}):
        odd = dict(tensors)
        if "drop" in change:
            del odd[change["drop"]]
        else:
            odd[change["w"]] = odd[change["w"]][:, :7].contiguous()
        save_file(odd, folder / "adapter_model.safetensors")
        with pytest.raises(InvalidConfig, match="do not fit"):
            pool.load(bench.served("misfit", weights=bench.store.put_tree(folder)))
        pool.load(bench.served("A", fingerprint=bench.fingerprint("A")))
        pool.unload("A")
    pool.load(bench.served("B", fingerprint=bench.fingerprint("B")))


def test_corrupt_bytes_are_never_served(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.adapter("A", 1)
    [weights] = [f for f in bench.store.tree(bench.adapters["A"]).files if f.path.endswith("safetensors")]
    bench.store.path(weights.digest).write_bytes(b"x" * weights.size)
    scheduler = Scheduler()
    scheduler.start()
    pool = Pool(bench.store, scheduler)
    with pytest.raises(CorruptObject):
        pool.load(bench.served("A"))
    scheduler.close()
    assert names(pool) == []


def test_a_route_to_a_model_that_is_not_loaded_is_503_and_never_another_model(bench: Bench, pool: Pool) -> None:
    pool.load(bench.served("A"))
    pool.set_routes([Route(model="acme.support", targets=(("A", 1.0), ("later", 1.0)))])
    outcomes = set()
    for user in range(20):
        try:
            pool.acquire("acme.support", str(user)).release()
            outcomes.add("A")
        except ApiError as error:
            outcomes.add(error.status)
    assert outcomes == {"A", 503}
