from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftplatform.core.errors import DataRefused, InvalidConfig
from ftplatform.core.recipe import MixConfig
from ftplatform.data.mix import apportion, mix
from ftplatform.data.replay import replay_indices

VALUES = st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=1, max_size=300)
CONFIGS = st.builds(
    MixConfig,
    by=st.just("domain"),
    weights=st.one_of(
        st.just({}),
        st.fixed_dictionaries({name: st.floats(0.01, 10) for name in ("", "a", "b", "c", "d")}),
        st.fixed_dictionaries({"a": st.floats(0, 0.45), "x": st.floats(0, 0.45)}),
    ),
    temperature=st.floats(0.001, 100),
    max_repeat=st.floats(1, 6),
    max_rows=st.dictionaries(st.sampled_from(["", "a", "b"]), st.integers(0, 200)),
)


def seen(values: list[str], config: MixConfig, seed: int = 17) -> Counter[str]:
    return Counter(values[i] for i in mix(values, config, seed).indices)


@settings(max_examples=300, deadline=None)
@given(VALUES, CONFIGS, st.integers(0, 2**31 - 1))
def test_shares_are_within_one_row_and_caps_hold(values: list[str], config: MixConfig, seed: int) -> None:
    try:
        mixed = mix(values, config, seed)
    except InvalidConfig:
        # Only "a" is there and its weight is 0: said, tested below.
        assert config.weights.get("a") == 0
        return
    rows, counts = Counter(values), Counter(values[i] for i in mixed.indices)
    length = len(mixed.indices)
    bound = {v: min(math.floor(config.max_repeat * n), config.max_rows.get(v, 10**9)) for v, n in rows.items()}
    assert length <= sum(min(n, config.max_rows.get(v, n)) for v, n in rows.items())
    asked = {share.value: share.asked for share in mixed.report}
    assert not length or sum(asked.values()) == pytest.approx(1)
    here = sum(asked[v] for v in rows)
    for value, n in rows.items():
        assert counts[value] <= bound[value]
        each = Counter(i for i in mixed.indices if values[i] == value)
        assert max(each.values(), default=0) <= math.ceil(counts[value] / n) <= math.ceil(config.max_repeat)
        assert not each or len(each) == min(n, counts[value]), "no row is repeated while another is left out"
    if here and not any(counts[v] == bound[v] for v in rows):
        for value in rows:
            assert abs(counts[value] - asked[value] / here * length) < 1
    assert (mix(values, config, seed).indices == mixed.indices).all()
    for share in mixed.report:
        assert share.rows == rows[share.value]
        assert share.realised == (counts[share.value] / length if length else 0)


def test_without_weights_every_row_is_seen_once() -> None:
    values = ["a"] * 30 + ["b"] * 3 + [""]
    assert sorted(mix(values, MixConfig(by="domain"), 17).indices) == list(range(34))


def test_a_value_cut_to_nothing_leaves_the_whole_epoch_to_the_named_ones() -> None:
    values = ["a"] * 10 + ["b"] * 5
    mixed = mix(values, MixConfig(by="t", weights={"a": 0.25}, max_rows={"b": 0}), 17)
    assert [(share.value, share.asked) for share in mixed.report] == [("a", 1.0), ("b", 0.0)]
    assert sorted(mixed.indices) == list(range(10))


def test_a_high_temperature_evens_the_shares() -> None:
    values = ["a"] * 900 + ["b"] * 100
    assert seen(values, MixConfig(by="t", temperature=1e9, max_repeat=10)) == {"a": 500, "b": 500}
    two = seen(values, MixConfig(by="t", temperature=2, max_repeat=10))
    assert two == {"a": 750, "b": 250}, "900 ** 0.5 to 100 ** 0.5 is 3 to 1"


def test_named_values_get_their_share_and_the_others_divide_the_rest() -> None:
    values = ["a"] * 10 + ["b"] * 60 + ["c"] * 30
    assert seen(values, MixConfig(by="t", weights={"a": 0.25})) == {"a": 25, "b": 50, "c": 25}
    assert seen(values, MixConfig(by="t", weights={"a": 1, "b": 3, "c": 0})) == {"a": 25, "b": 75}, "proportions"


def test_what_a_cap_takes_goes_to_the_others() -> None:
    values = ["a"] * 10 + ["b"] * 60 + ["c"] * 30
    mixed = mix(values, MixConfig(by="t", weights={"a": 0.7}, max_repeat=2), 17)
    assert Counter(values[i] for i in mixed.indices) == {"a": 20, "b": 53, "c": 27}
    by_value = {share.value: share for share in mixed.report}
    assert (by_value["a"].asked, by_value["a"].realised, by_value["a"].repeats) == (0.7, 0.2, 2.0)
    assert seen(values, MixConfig(by="t", max_rows={"b": 6})) == {"a": 10, "b": 6, "c": 30}


def test_a_weight_for_a_value_that_is_not_there_is_reported() -> None:
    mixed = mix(["a", "a"], MixConfig(by="t", weights={"b": 0.5}), 17)
    assert [(s.value, s.rows, s.asked, s.realised) for s in mixed.report] == [("a", 2, 0.5, 1.0), ("b", 0, 0.5, 0.0)]


@pytest.mark.parametrize(
    ("weights", "said"),
    [({"a": 2.0}, "'b' (1 rows)"), ({"a": 0.0, "b": 0.0}, "every weight is 0"), ({"a": -1.0}, "below 0")],
)
def test_weights_that_cannot_be_meant_are_refused(weights: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidConfig) as error:
        mix(["a", "b"], MixConfig(by="t", weights=weights), 17)
    assert said in str(error.value)


def test_rows_of_another_value_do_not_change_the_draw() -> None:
    config = MixConfig(by="t", max_rows={"a": 5})
    one = set(mix(["a"] * 50, config, 17).indices)
    two = {i for i in mix(["a"] * 50 + ["b"] * 9, config, 17).indices if i < 50}
    assert one == two
    assert one != set(mix(["a"] * 50, config, 18).indices)


def test_no_rows_mix_to_nothing() -> None:
    assert len(mix([], MixConfig(by="t"), 17).indices) == 0


def test_the_largest_remainder_gets_the_odd_row() -> None:
    third = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert apportion(third, dict.fromkeys(third, 99), 100) == {"a": 34, "b": 33, "c": 33}
    assert apportion(third, {"a": 1, "b": 2, "c": 3}, 100) == {"a": 1, "b": 2, "c": 3}, "no room for more"


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0, 0.9), st.integers(0, 2**31 - 1))
def test_replay_keeps_every_row_and_takes_general_ones_once(rows: int, general: int, share: float, seed: int) -> None:
    order = replay_indices(rows, general, share, seed)
    assert sorted(order[order < rows]) == list(range(rows))
    drawn = order[order >= rows]
    assert len(np.unique(drawn)) == len(drawn) == min(general, round(rows * share / (1 - share)))
    assert drawn.max(initial=rows) < rows + general
    assert (replay_indices(rows, general, share, seed) == order).all()


def test_replay_without_general_rows_is_refused() -> None:
    with pytest.raises(DataRefused):
        replay_indices(10, 0, 0.1, 17)
