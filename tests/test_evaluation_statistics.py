"""Tango's interval against published values, an independent recomputation and simulated coverage; the power formulas
likewise."""

from __future__ import annotations

import math
import random
from functools import cache
from statistics import NormalDist

import pytest

from ftplatform.evaluation.statistics import (
    Z_LEVEL,
    Paired,
    items_needed,
    score_interval,
    score_statistic,
    smallest_visible_drop,
)

TWO_SIDED = NormalDist().inv_cdf(0.975)


@pytest.mark.parametrize(
    ("n", "gained", "lost", "lower", "upper"),
    [
        # Cavo et al. (2012), in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, chapter 8.
        (161, 6, 16, -0.1240, -0.0054),
        # The same source's test for a table with every pair discordant.
        (3, 3, 0, -0.1230, 1.0),
        (3, 0, 3, -1.0, 0.1230),
        # Bentur et al. (2009), the airway example of Fagerland, Lydersen and Laake (2014), Statistics in Medicine
        # 33:2850.
        (21, 1, 7, -0.517, -0.026),
    ],
)
def test_the_interval_equals_published_95_percent_intervals(n, gained, lost, lower, upper):
    found = score_interval(Paired(n, gained, lost), z=TWO_SIDED)
    assert found == pytest.approx((lower, upper), abs=5.1e-4 if lower == -0.517 else 5.1e-5)


def statistic_by_search(pairs: Paired, d: float) -> float:
    """The same z with the restricted maximum found by golden-section search instead of the closed form."""
    agree = pairs.n - pairs.gained - pairs.lost

    def log_likelihood(q: float) -> float:
        terms = ((pairs.gained, q + d), (pairs.lost, q), (agree, 1 - 2 * q - d))
        return sum(count * math.log(max(p, 1e-300)) for count, p in terms if count)

    low, high = max(0.0, -d), (1 - d) / 2
    for _ in range(200):
        third = (high - low) * 0.381966
        left, right = low + third, high - third
        low, high = (low, right) if log_likelihood(left) > log_likelihood(right) else (left, high)
    q = (low + high) / 2
    return (pairs.gained - pairs.lost - pairs.n * d) / math.sqrt(pairs.n * (2 * q + d * (1 - d)))


@pytest.mark.parametrize(
    "pairs", [Paired(500, 30, 20), Paired(500, 0, 7), Paired(550, 3, 0), Paired(80, 20, 35), Paired(40, 0, 0)]
)
@pytest.mark.parametrize("difference", [-0.31, -0.05, -0.004, 0.01, 0.2])
def test_the_closed_form_equals_a_numerical_maximum_of_the_likelihood(pairs, difference):
    assert score_statistic(pairs, difference) == pytest.approx(statistic_by_search(pairs, difference), rel=1e-4)


def test_agreement_on_every_item_still_leaves_doubt_that_shrinks_with_n():
    for n in (20, 500, 3000):
        bound = Z_LEVEL**2 / (n + Z_LEVEL**2)
        assert score_interval(Paired(n, 0, 0)) == pytest.approx((-bound, bound), abs=1e-9)


def test_the_interval_of_swapped_models_is_mirrored():
    lower, upper = score_interval(Paired(500, 31, 12))
    assert score_interval(Paired(500, 12, 31)) == pytest.approx((-upper, -lower), abs=1e-9)


def draws(n: int, gain: float, loss: float, count: int, seed: int) -> list[Paired]:
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        gained = lost = 0
        for _ in range(n):
            u = chance.random()
            gained += u < gain
            lost += gain <= u < gain + loss
        found.append(Paired(n, gained, lost))
    return found


@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0.05), (0.02, 0.07), (0.15, 0.20)])
def test_each_one_sided_bound_holds_in_95_percent_of_simulated_evaluations(gain, loss):
    interval = cache(score_interval)
    found = [interval(pairs) for pairs in draws(300, gain, loss, 1500, seed=11)]
    # The standard error of these shares is 0.006.
    assert 0.93 <= sum(lower <= gain - loss for lower, _ in found) / len(found) <= 0.97
    assert 0.93 <= sum(upper >= gain - loss for _, upper in found) / len(found) <= 0.97


def chance_to_pass(n: int, gain: float, loss: float, margin: float) -> float:
    """Exact chance, over every possible pair of counts, that the lower bound lies above ``-margin``."""
    total = 0.0
    for gained in range(n + 1 if gain else 1):
        for lost in range(n - gained + 1):
            ways = (
                math.lgamma(n + 1)
                - math.lgamma(gained + 1)
                - math.lgamma(lost + 1)
                - math.lgamma(n - gained - lost + 1)
            )
            agree = (n - gained - lost) * math.log(1 - gain - loss)
            chance = math.exp(ways + (gained * math.log(gain) if gained else 0) + lost * math.log(loss) + agree)
            if chance > 1e-12 and score_statistic(Paired(n, gained, lost), -margin) > Z_LEVEL:
                total += chance
    return total


@pytest.mark.parametrize("discordance", [0.05, 0.1, 0.2, 0.3])
def test_a_model_that_truly_lost_the_margin_passes_in_at_most_5_percent_of_evaluations(discordance):
    found = chance_to_pass(200, (discordance - 0.05) / 2, (discordance + 0.05) / 2, margin=0.05)
    assert 0.02 < found < 0.052


@pytest.mark.parametrize("discordance", [0.05, 0.2])
def test_the_smallest_visible_drop_is_seen_in_about_80_percent_of_simulated_evaluations(discordance):
    n = 400
    drop = smallest_visible_drop(n, discordance)
    interval = cache(score_interval)
    trials = draws(n, (discordance - drop) / 2, (discordance + drop) / 2, 600, seed=5)
    assert 0.74 <= sum(interval(pairs)[1] < 0 for pairs in trials) / len(trials) <= 0.87


def test_the_smallest_visible_drop_has_a_floor_at_zero_disagreement_and_falls_with_n():
    assert smallest_visible_drop(500, 0.0) == pytest.approx((Z_LEVEL + 0.8416) ** 2 / 500, rel=0.03)
    assert smallest_visible_drop(500, 0.1) == pytest.approx(0.0351, abs=2e-4)
    assert smallest_visible_drop(2000, 0.1) < smallest_visible_drop(500, 0.1) < smallest_visible_drop(500, 0.3)
    assert smallest_visible_drop(2, 0.5) == 1.0


def test_the_items_said_to_be_needed_show_non_inferiority_in_about_80_percent_of_simulated_evaluations():
    observed = Paired(120, 12, 13)
    needed = items_needed(observed, 0.05)
    assert needed is not None
    assert needed > observed.n
    interval = cache(score_interval)
    trials = draws(needed, 12 / 120, 13 / 120, 250, seed=3)
    assert 0.72 <= sum(interval(pairs)[0] > -0.05 for pairs in trials) / len(trials) <= 0.88


def test_no_number_of_items_is_promised_for_a_drop_of_the_margin_itself():
    assert items_needed(Paired(100, 0, 5), 0.05) is None


def test_500_items_show_the_default_margin_at_a_fifth_disagreement_and_no_change():
    assert score_interval(Paired(500, 50, 50))[0] > -0.05
    assert (items_needed(Paired(100, 10, 10), 0.05) or 0) <= 500


@pytest.mark.parametrize("counts", [(0, 0, 0), (5, 3, 3), (5, -1, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="impossible counts"):
        Paired(*counts)
