"""Search spaces, what is tried next, what is stopped early, what may be spent: plain functions of the trials so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.ids import LineKey
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.core.search_config import SearchConfig
from ftplatform.core.search_result import Trial, best_of
from ftplatform.planning.servable import servable
from ftplatform.planning.setup import Setup
from ftplatform.recipes.check import check
from ftplatform.recipes.overrides import overridden, read_overrides
from ftplatform.recipes.search_space import space_problems
from ftplatform.search.caps import over_cap
from ftplatform.search.documents import Study, newest_study, study_key
from ftplatform.search.figures import history_plot, importance_plot, values_plot
from ftplatform.search.space import decode, distributions, encode, own_values
from ftplatform.search.study import importance, look, ninth, suggest
from ftplatform.search.table import as_yaml, trial_rows
from ftplatform.store import ObjectStore
from ftplatform.store.local import LocalBlobs

RATE = {"low": 1e-4, "high": 1e-1, "log": True}


def _value(space: dict[str, Any], **search: Any) -> dict[str, Any]:
    training = {"learning_rate": 1e-2, "batch_size": 4}
    return {
        "name": "r", "version": 1, "base": "b", "lora": {"rank": 8}, "training": training, "search": {"space": space, **search},
    }  # fmt: skip


def _recipe(space: dict[str, Any] | None = None, **search: Any) -> Recipe:
    return parse_recipe(
        _value(space or {"training.learning_rate": RATE, "lora.rank": {"choices": [4, 8, 16]}}, **search)
    )


def _problems(space: dict[str, Any], **search: Any) -> dict[str, str]:
    return {one.field: one.message for one in check(_value(space, **search), lambda key: pytest.fail("no parent"))}


def test_every_problem_of_a_space_is_listed_at_once() -> None:
    found = _problems(
        {
            "lora.rnk": {"choices": [4, 8]},
            "training.batch_size": {"choices": [0, 4, "many"]},
            "training.epochs": {"low": -1, "high": 2},
            "lora.rank": {"low": 4, "high": 8.5},
            "name": {"choices": ["a", "b"]},
            "hardware.gpus": {"choices": [1, 2]},
            "training.learning_rate": RATE,
            "training.quantization": {"choices": ["none", "nf4"]},
            "parameterisation": {"choices": ["lora", "full"]},
        }
    )
    names = {name.removeprefix("search.space.") for name in found}
    assert names == {"lora.rnk", "training.batch_size", "training.epochs", "lora.rank", "name", "hardware.gpus"}
    assert "did you mean lora.rank?" in found["search.space.lora.rnk"]
    assert "0: " in found["search.space.training.batch_size"]
    assert "many: " in found["search.space.training.batch_size"]
    assert "whole numbers" in found["search.space.lora.rank"]


def test_a_value_that_contradicts_the_recipe_is_a_problem() -> None:
    value = _value({"training.quantization": {"choices": ["none", "nf4"]}})
    value["parameterisation"] = "full"
    (found,) = check(value, lambda key: pytest.fail("no parent"))
    assert found.field == "search.space.training.quantization"
    assert "nf4: " in found.message


def test_a_rank_that_the_engine_refuses_is_a_problem() -> None:
    wanted = _value({"lora.rank": {"choices": [8, 300]}})
    recipe = parse_recipe({**wanted, "lora": {"rank": 8, "init_lora_weights": "pissa"}})

    def refuses(varied: Recipe) -> str:
        found = servable(Setup.from_recipe(varied), "vllm")
        return "" if found.ok else found.why

    assert space_problems(recipe) == {}
    (message,) = space_problems(recipe, refuses).values()
    assert message.startswith("300: ")
    assert "rank 256" in message


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"low": 2, "high": 1}, "low must be below high"),
        ({"low": 0, "high": 1, "log": True}, "starts above 0"),
        ({"low": 1, "high": 8, "log": True, "step": 1}, "exclude each other"),
        ({"low": 0.0, "high": 1.0, "step": 0.3}, "whole steps"),
        ({"choices": [1, 1]}, "differ"),
        ({"choices": [1]}, "at least 2"),
        ({}, "choices"),
    ],
)
def test_a_range_that_means_nothing_is_refused(values: dict[str, Any], said: str) -> None:
    found = _problems({"training.weight_decay": values})
    assert any(said in message for message in [*found, *found.values()]), found


def test_values_come_back_from_the_sampler_as_the_recipe_has_them() -> None:
    space = {
        "training.learning_rate": RATE,
        "lora.rank": {"low": 4, "high": 64, "log": True},
        "training.warmup_ratio": {"low": 0.0, "high": 0.2, "step": 0.05},
        "lora.target_modules": {"choices": [["q_proj", "v_proj"], ["q_proj"]]},
        "lora.use_rslora": {"choices": [True, False]},
    }
    recipe = _recipe(space)
    trials: list[Trial] = []
    for number in range(12):
        values = suggest(recipe, "heldout", trials)
        assert values is not None
        overridden(recipe, values)
        assert isinstance(values["lora.rank"], int)
        assert values["training.learning_rate"] == float(f"{values['training.learning_rate']:.4g}")
        assert math.isclose(values["training.warmup_ratio"] * 20, round(values["training.warmup_ratio"] * 20))
        assert values["lora.target_modules"] in space["lora.target_modules"]["choices"]
        assert decode(recipe, encode(recipe, values)) == values
        trials.append(Trial(number=number, parameters=values, state="complete", score=number / 12))
    assert list(distributions(recipe)) == list(space)


def test_the_first_trial_is_the_recipe_itself_where_the_space_holds_it() -> None:
    assert suggest(_recipe(), "heldout", []) == {"training.learning_rate": 1e-2, "lora.rank": 8}
    outside = _recipe({"training.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}})
    assert own_values(outside) is None
    assert suggest(outside, "heldout", []) != {"training.learning_rate": 1e-2}
    assert own_values(_recipe({"training.max_steps": {"low": 1, "high": 9}})) is None


def _play(recipe: Recipe, score: Callable[[dict[str, Any]], float], count: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(count):
        values = suggest(recipe, "heldout", trials)
        assert values is not None
        trials.append(Trial(number=number, parameters=values, state="complete", score=score(values)))
    return trials


def _near(values: dict[str, Any]) -> float:
    return 1 - abs(math.log10(values["training.learning_rate"]) + 3.2) / 3


def test_the_same_seed_gives_the_same_trials_and_another_gives_others() -> None:
    first, again = (_play(_recipe(trials=12), _near, 12) for _ in range(2))
    other = _play(_recipe(trials=12, seed=3), _near, 12)
    assert first == again
    assert [t.parameters for t in first[1:]] != [t.parameters for t in other[1:]]
    # Nothing is remembered between two questions: asked in the middle, the answer is the same.
    assert suggest(_recipe(trials=12), "heldout", first[:7]) == first[7].parameters


def test_trials_gather_where_the_score_is_good() -> None:
    trials = _play(_recipe(trials=30), _near, 30)
    early, late = (sum(_near(t.parameters) for t in part) / 10 for part in (trials[:10], trials[20:]))
    assert late > early
    best = best_of(tuple(trials), "heldout")
    assert best is not None
    assert best.score is not None
    assert best.score > 0.95
    shares = importance(_recipe(trials=30), "heldout", trials)
    assert next(iter(shares)) == "training.learning_rate", "the rank decides nothing here"
    assert math.isclose(sum(shares.values()), 1)
    assert importance(_recipe(), "heldout", trials[:3]) == {}


def test_a_space_that_is_tried_out_says_so() -> None:
    recipe = _recipe({"lora.rank": {"choices": [4, 8]}})
    trials = _play(recipe, lambda values: values["lora.rank"], 2)
    assert {t.parameters["lora.rank"] for t in trials} == {4, 8}
    assert suggest(recipe, "heldout", trials) is None


def _seen(number: int, figure: float, rungs: tuple[float, ...] = (), state: str = "running") -> Trial:
    values = {"training.learning_rate": 1e-3 + number * 1e-4, "lora.rank": 8}
    return Trial(number=number, parameters=values, seen={1: figure}, rungs=rungs, state=state)


@pytest.mark.parametrize(("objective", "sign"), [("heldout", -1.0), ("eval_loss", 1.0)])
def test_halving_keeps_the_best_third_by_loss_whatever_the_objective(objective: Any, sign: float) -> None:
    recipe = _recipe()
    trials: list[Trial] = []
    kept = []
    for number, loss in enumerate([2.0, 2.5, 1.5, 1.8, 1.4, 3.0]):
        stop, rungs = look(recipe, objective, trials, _seen(number, loss))
        assert rungs == (sign * loss,)
        kept.append(not stop)
        trials.append(_seen(number, loss, rungs, "pruned" if stop else "running"))
    assert kept == [True, False, True, False, True, False]


def test_halving_looks_at_one_ninth_and_at_three() -> None:
    assert [ninth(step, 20) for step in (1, 2, 3, 6, 7, 9, 20)] == [0, 0, 1, 2, 3, 4, 9]
    trial = _seen(0, 2.0)
    _, rungs = look(_recipe(), "heldout", [], trial)
    second = trial.model_copy(update={"rungs": rungs, "seen": {1: 2.0, 2: 1.9}})
    assert look(_recipe(), "heldout", [], second) == (False, (-2.0,)), "between two rungs nothing is compared"
    third = trial.model_copy(update={"rungs": rungs, "seen": {1: 2.0, 2: 1.9, 3: 1.8}})
    assert look(_recipe(), "heldout", [], third) == (False, (-2.0, -1.8))


def test_caps_count_what_was_spent_and_what_may_still_be() -> None:
    config = SearchConfig.model_validate(
        {"space": {"lora.rank": {"choices": [4, 8]}}, "max_hours": 1.0, "max_price": 5}
    )
    done = Trial(number=0, parameters={}, state="complete", hours=0.3, price=1.0, planned_hours=9, planned_price=9)
    running = Trial(number=1, parameters={}, planned_hours=0.4, planned_price=2.0)
    assert over_cap(config, [done, running], 0.3, 2.0, "USD") == ""
    assert "max_hours is 1 hours: 0.7" in over_cap(config, [done, running], 0.31, 0.1, "USD")
    assert "max_price is 5 USD: 3" in over_cap(config, [done, running], 0.1, 2.1, "USD")
    free = config.model_copy(update={"max_hours": None, "max_price": None})
    assert over_cap(free, [done], 1e6, 1e6, "USD") == ""


def test_trials_are_kept_by_study_and_survive(tmp_path: Path) -> None:
    store, line = ObjectStore(LocalBlobs(tmp_path)), LineKey.parse("acme/support|tiny@1")
    facts: dict[str, Any] = {"curated": "c", "base": "b", "judged_by": "s", "objective": "heldout", "pinned": []}
    key = study_key(_recipe(), **facts)
    assert key == study_key(_recipe(trials=99, max_price=1, parallel=4), **facts), "the same trials, more of them"
    assert key != study_key(_recipe({"lora.rank": {"choices": [1, 2]}}), **facts)
    assert key != study_key(_recipe(seed=1), **facts)
    assert key != study_key(_recipe(), **facts | {"curated": "other"})
    study = Study(store, line, key)
    assert newest_study(store, line) is None
    study.begin("heldout")
    trials = [_seen(1, 2.0, (-2.0,), "pruned"), _seen(0, 1.5)]
    for trial in trials:
        study.save(trial)
    found = newest_study(store, line)
    assert found == (study, "heldout")
    assert found[0].trials() == trials[::-1]


def test_overrides_name_every_wrong_field() -> None:
    recipe = _recipe()
    given = read_overrides(["lora.rank=4", "training.schedule=linear", "lora.target_modules=[q_proj]"])
    changed = overridden(recipe, given)
    assert (changed.lora.rank, changed.training.schedule, changed.lora.target_modules) == (4, "linear", ("q_proj",))
    assert changed.key == recipe.key
    with pytest.raises(InvalidConfig, match=r"did you mean lora\.rank") as refused:
        overridden(recipe, {"lora.rnk": 4, "version": 2})
    assert "version" in str(refused.value)
    with pytest.raises(InvalidConfig, match="key=value"):
        read_overrides(["lora.rank"])


def test_the_table_and_the_pictures_show_every_trial() -> None:
    trials = _play(_recipe(trials=8), _near, 8)
    trials += [
        _seen(8, 2.5, (), "pruned"),
        Trial(number=9, parameters=trials[0].parameters, state="failed", why="it broke"),
    ]
    rows = trial_rows(trials, "heldout")
    assert len(rows) == 10
    assert rows[0]["trial"].endswith("(best)")
    assert rows[-1]["why"] == "it broke"
    assert rows[-2]["validation"] == "2.5 after 1/9"
    assert (
        as_yaml({"lora.rank": 4, "training.learning_rate": 0.001})
        == "lora:\n  rank: 4\ntraining:\n  learning_rate: 0.001\n"
    )
    for png in (
        history_plot(trials, "heldout"),
        importance_plot({"lora.rank": 0.3, "training.learning_rate": 0.7}),
        values_plot(_recipe(), trials, "heldout"),
    ):
        assert png.startswith(b"\x89PNG")
