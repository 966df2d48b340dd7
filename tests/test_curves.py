"""The picture of a training's curves: every figure there is gets a panel, and nothing that trainings do breaks it."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from ftplatform.assets import curves
from ftplatform.assets.curves import smoothed, training_curves


def steps(count: int, **more: float) -> list[dict[str, Any]]:
    return [
        {"step": n, "loss": 3 / n, "grad_norm": 1.0, "learning_rate": 1e-4, "tokens_per_second": 5e3, "memory_gb": 1.0, **more}
        for n in range(1, count + 1)
    ]  # fmt: skip


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes that were drawn, with their panels."""
    kept: list[Any] = []
    dress = curves._dress
    monkeypatch.setattr(curves, "_dress", lambda axes, *rest: (dress(axes, *rest), kept.append(axes)))
    return kept


@pytest.mark.parametrize("count", [0, 1, 3, 300])
def test_any_number_of_steps_makes_a_picture_that_is_light(count: int) -> None:
    png = training_curves(steps(count))
    assert size(png)[0] == 864
    assert len(png) < 200_000


def test_a_method_gets_panels_of_its_own(drawn: list[Any]) -> None:
    dpo = {"rewards/chosen": 1.0, "rewards/rejected": -1.0, "rewards/margins": 2.0, "rewards/accuracies": 0.5}
    plain, pairs = training_curves(steps(30)), training_curves(steps(30, **dpo))
    assert size(pairs)[1] > size(plain)[1]
    titles = [axes.get_title(loc="left") for axes in drawn]
    assert titles[:5] == ["loss", "gradient norm", "learning rate", "tokens per second", "memory (GB)"]
    assert titles[-3:] == ["rewards", "reward margin", "pairs in the right order (%)"]
    [accuracy] = [axes for axes in drawn if axes.get_title(loc="left") == titles[-1]]
    assert accuracy.lines[0].get_ydata()[0] == 50.0


def test_a_divergence_is_seen_without_flattening_what_came_before(drawn: list[Any]) -> None:
    told = steps(100)
    for line in told[80:]:
        line["loss"] = math.exp(line["step"] - 80)
    told[-1] |= {"loss": math.nan, "grad_norm": math.inf}
    training_curves(told)
    assert drawn[0].get_yscale() == "log"
    assert drawn[1].get_yscale() == "linear"
    assert all(math.isfinite(value) for value in drawn[0].lines[0].get_ydata())


def test_validation_stands_where_it_was_measured(drawn: list[Any]) -> None:
    told = steps(40)
    told[19]["eval_loss"], told[39]["eval_loss"] = 2.0, 1.5
    training_curves(told)
    [line] = [one for one in drawn[0].lines if one.get_label() == "validation"]
    assert [list(line.get_xdata()), list(line.get_ydata())] == [[20, 40], [2.0, 1.5]]


def test_the_smoothed_line_lies_in_the_middle_of_a_falling_one() -> None:
    falling = [100.0 - n for n in range(100)]
    found = smoothed(falling)
    assert found[10:90] == pytest.approx(falling[10:90])
    assert max(found) <= 100
    noisy = [1.0 if n % 2 else 0.0 for n in range(400)]
    assert all(abs(value - 0.5) < 0.06 for value in smoothed(noisy)[20:380])
