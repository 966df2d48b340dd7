"""What the gate lets pass, what it stops, and what it refuses to judge."""

from __future__ import annotations

import pytest

from ftplatform.core.errors import InvalidConfig, NotFound, PayloadFailed
from ftplatform.evaluation.gate import compare, decide, sentence
from ftplatform.evaluation.margins import DEFAULT_MARGIN, MANDATORY_SUITES, gating_suites, margin_of


def scores(n: int, right: range, flips: range = range(0)) -> dict[str, int]:
    """``right`` items are right; those in ``flips`` are turned over."""
    return {f"item-{i}": int((i in right) != (i in flips)) for i in range(n)}


def comparison(n=500, gained=0, lost=0, margin=0.05, suite="safety", reference="base"):
    base = scores(n, range(n // 2))
    candidate = scores(n, range(n // 2), range(n // 2 - lost, n // 2 + gained))
    return compare(suite, reference, margin, base, candidate)


def test_the_same_answers_are_shown_to_be_non_inferior():
    found = comparison()
    assert found.outcome == "non-inferior"
    assert found.difference == 0.0
    assert found.discordant == 0
    assert -0.006 < found.lower < 0 < found.upper < 0.006


def test_a_clear_drop_is_a_regression():
    found = comparison(lost=60)
    assert found.outcome == "regression"
    assert found.upper < 0
    assert found.lower <= -found.margin
    assert found.candidate_score == pytest.approx(0.38)
    assert found.reference_score == pytest.approx(0.5)


def test_a_shown_but_tolerable_drop_passes():
    found = comparison(lost=10)
    assert found.upper < 0
    assert found.outcome == "non-inferior"


def test_too_few_items_are_insufficient_even_without_any_difference():
    found = comparison(n=40)
    assert found.outcome == "insufficient"
    assert found.lower <= -0.05
    assert found.upper >= 0


def test_an_improvement_on_few_items_may_pass_because_the_lower_bound_counts():
    assert comparison(n=40, gained=10).outcome == "non-inferior"


def test_one_item_more_or_less_decides_at_the_margin():
    outcomes = [comparison(lost=lost).outcome for lost in range(40)]
    turn = outcomes.index("regression")
    assert outcomes[:turn] == ["non-inferior"] * turn
    assert outcomes[turn:] == ["regression"] * (40 - turn)
    assert comparison(lost=turn).lower <= -0.05 < comparison(lost=turn - 1).lower


@pytest.mark.parametrize("change", ["missing", "added", "renamed", "empty"])
def test_different_items_are_an_error_and_never_a_pass(change):
    base = scores(500, range(250))
    candidate = dict(base)
    if change in ("missing", "renamed"):
        del candidate["item-3"]
    if change in ("added", "renamed"):
        candidate["other"] = 1
    if change == "empty":
        candidate, base = {}, {}
    with pytest.raises(PayloadFailed, match="the same items"):
        compare("safety", "base", 0.05, base, candidate)


def test_a_score_that_is_not_right_or_wrong_is_refused():
    with pytest.raises(PayloadFailed, match="0 and 1"):
        compare("safety", "base", 0.05, {"a": 1}, {"a": 2})


def test_every_suite_must_pass_against_every_reference():
    passing = [comparison(suite=s, reference=r) for s in ("safety", "heldout") for r in ("base", "champion")]
    assert decide(passing, suites=["safety", "heldout"], references=["base", "champion"])[0] == "promote"
    for place in range(4):
        for bad in ({"lost": 60}, {"n": 40}):
            c = passing[place]
            mixed = [*passing[:place], comparison(suite=c.suite, reference=c.reference, **bad), *passing[place + 1 :]]
            verdict, reasons = decide(mixed, suites=["safety", "heldout"], references=["base", "champion"])
            assert verdict == "quarantine"
            assert reasons[0].startswith(f"{c.suite} against {c.reference}")
            assert len(reasons) == 4


def test_a_suite_that_was_not_compared_is_an_error_and_never_a_pass():
    with pytest.raises(NotFound, match="capability against base"):
        decide([comparison()], suites=["safety", "capability"], references=["base"])
    with pytest.raises(NotFound, match="safety against champion"):
        decide([comparison()], suites=["safety"], references=["base", "champion"])
    with pytest.raises(NotFound, match="no suite"):
        decide([], suites=[], references=["base"])


def test_the_first_model_is_judged_against_the_base_alone():
    assert decide([comparison()], suites=["safety"], references=["base"])[0] == "promote"


def test_reasons_are_sentences_with_the_numbers():
    assert sentence(comparison(lost=60)) == (
        "safety against base: 38.0% after 50.0% on 500 items, difference -12.0 points; a drop is shown "
        "(95 % upper bound -9.8 points) and it may reach -14.6 points, beyond the margin of -5.0 points."
    )
    few = sentence(comparison(n=60, gained=3, lost=4))
    assert "insufficient" in few
    assert "items would show it if these shares held" in few
    assert "60 items" in few
    hopeless = sentence(comparison(n=40, lost=2))
    assert "no number of items would show it" in hopeless


def test_a_margin_may_be_set_but_safety_only_tightened():
    assert margin_of("capability", {}) == DEFAULT_MARGIN
    assert margin_of("capability", {"capability": 0.2}) == 0.2
    assert margin_of("safety", {"safety": 0.02}) == 0.02
    with pytest.raises(InvalidConfig, match=r"margins\.safety"):
        margin_of("safety", {"safety": 0.2})


def test_mandatory_suites_gate_whatever_the_dataset_asks_for():
    assert gating_suites() == ("heldout", *MANDATORY_SUITES)
    assert gating_suites(("capability", "own")) == ("heldout", *MANDATORY_SUITES, "own")
