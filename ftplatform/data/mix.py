"""Mixing: how often the rows of each value of a tag are seen in an epoch, worked out on positions alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.digests import digest_bytes
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.recipe import MixConfig


@dataclass(frozen=True, slots=True)
class MixShare:
    value: str
    """The tag's value; empty for the rows that have none."""
    rows: int
    """Rows there are."""
    asked: float
    """Share of the epoch that the recipe asks for."""
    realised: float
    """Share it has; less or more than asked where a cap binds."""
    repeats: float
    """Times a row of this value is seen on average; below 1, some rows are left out."""


@dataclass(frozen=True, slots=True)
class Mixed:
    indices: NDArray[np.int64]
    """(n,) positions in ``values``, shuffled; a row seen twice stands there twice."""
    report: list[MixShare]
    """By value, sorted."""


def mix(values: Sequence[str], config: MixConfig, seed: int) -> Mixed:
    """Draw an epoch from rows whose tag ``config.by`` has the given ``values`` (``""`` where a row has none).

    The epoch is as long as the rows, each value cut to its ``max_rows``. A value gets its share of that length, never more
    than ``max_repeat`` times its rows nor its ``max_rows``; what a cap takes from one value goes to the others in proportion to
    their shares, and the epoch gets shorter only when every asked value is at its cap. Where no cap binds, a value's rows differ
    from share x length by less than one (largest remainders). Every row of a value is seen floor or ceil of its average; which
    ones is drawn by ``seed`` and the value, so another value's rows do not change the draw.

    Raises:
        InvalidConfig: a weight below 0, weights that are all 0, or weights that leave nothing for a value they do not name.
    """
    codes, names = _codes(values)
    counts = np.bincount(codes, minlength=len(names))
    found = {name: int(counts[code]) for code, name in enumerate(names)}
    shares = asked_shares(found, config)
    present = sorted(found)
    kept = {name: min(found[name], config.max_rows.get(name, found[name])) for name in present}
    bounds = {
        name: min(math.floor(config.max_repeat * found[name]), config.max_rows.get(name, len(values) + 1))
        for name in present
    }
    seen = apportion({name: shares[name] for name in present}, bounds, sum(kept.values()))

    order = np.argsort(codes, kind="stable")
    starts = dict(zip(names, np.concatenate(([0], np.cumsum(counts)[:-1])), strict=True)) if names else {}
    drawn = [
        _draw(order[starts[name] : starts[name] + found[name]], seen[name], _generator(seed, name)) for name in present
    ]
    indices = np.concatenate(drawn) if drawn else np.empty(0, np.int64)
    np.random.default_rng(seed).shuffle(indices)
    report = [
        MixShare(
            name,
            found.get(name, 0),
            share,
            seen.get(name, 0) / len(indices) if len(indices) else 0.0,
            seen[name] / found[name] if name in found else 0.0,
        )
        for name, share in sorted(shares.items())
    ]
    return Mixed(indices, report)


def asked_shares(found: dict[str, int], config: MixConfig) -> dict[str, float]:
    """Value -> share asked for, summing to 1 over what was found and named.

    Without weights ``rows ** (1 / temperature)``, rows cut to ``max_rows``. With weights: named values get theirs; when every
    value is named only their proportions count, else they are shares, and the others divide what is left of 1 as their rows are.
    """
    rows = {name: min(count, config.max_rows.get(name, count)) for name, count in found.items()}
    if not config.weights:
        largest = max(rows.values(), default=0)
        # Divided by the largest, because a small temperature is a high power.
        return _normalised(
            {name: (count / largest) ** (1 / config.temperature) for name, count in rows.items()} if largest else rows
        )
    if any(weight < 0 for weight in config.weights.values()):
        raise InvalidConfig(
            f"mix.weights {config.weights}: a weight is below 0; accepted are numbers from 0 (leave out)"
        )
    named = sum(config.weights.values())
    # A value that ``max_rows`` cuts to nothing is left out and divides nothing.
    left_out = {name: 0.0 for name, count in rows.items() if name not in config.weights and not count}
    others = {name: float(count) for name, count in rows.items() if name not in config.weights and count}
    if not others:
        if named == 0:
            raise InvalidConfig(f"mix.weights {config.weights}: every weight is 0, nothing would be trained on")
        return _normalised(config.weights) | left_out
    if named >= 1:
        listed = ", ".join(f"{name!r} ({found[name]} rows)" for name in sorted(others))
        raise InvalidConfig(
            f"mix.weights add up to {named:g} and do not name every value of {config.by!r}: {listed} would get nothing. Give each "
            "a weight (0 leaves it out), or give shares that add up to less than 1; the others divide the rest"
        )
    rest = _normalised(others)
    return {**config.weights, **{name: share * (1 - named) for name, share in rest.items()}, **left_out}


def apportion(shares: dict[str, float], bounds: dict[str, int], total: int) -> dict[str, int]:
    """Whole numbers that add up to ``total`` (less when the bounds leave no room), in proportion to ``shares``, none above its bound.

    Water-filling over the bounds, then largest remainders (Hamilton's method); ties go to the first name.
    """
    given = dict.fromkeys(shares, 0)
    free = {name: share for name, share in shares.items() if share > 0}
    left = total
    while free:
        whole = sum(free.values())
        full = [name for name, share in free.items() if left * share / whole > bounds[name]]
        if not full:
            break
        for name in full:
            given[name] = bounds[name]
            left -= bounds[name]
            del free[name]
    if free:
        whole = sum(free.values())
        quotas = {name: left * share / whole for name, share in free.items()}
        given |= {name: math.floor(quota) for name, quota in quotas.items()}
        missing = left - sum(given[name] for name in quotas)
        for name in sorted(quotas, key=lambda name: (given[name] - quotas[name], name))[:missing]:
            given[name] += 1
    return given


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    whole = sum(weights.values())
    return {name: weight / whole if whole else 0.0 for name, weight in weights.items()}


def _codes(values: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    numbers: dict[str, int] = {}
    codes = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64, len(values))
    return codes, list(numbers)


def _generator(seed: int, value: str) -> np.random.Generator:
    return np.random.default_rng([seed, int(digest_bytes(value.encode())[:16], 16)])


def _draw(rows: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """``count`` of ``rows``: all of them as often as fits, the rest without repetition."""
    times, rest = divmod(count, len(rows))
    return np.concatenate([np.tile(rows, times), random.permutation(rows)[:rest]])
