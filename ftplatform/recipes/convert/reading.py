"""Reading another program's settings: every key is taken, agreed with, or listed as left behind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Left:
    """A setting that the recipe does not carry."""

    key: str
    value: Any
    why: str
    nearest: str | None
    """The field or command that comes closest."""

    def line(self) -> str:
        value = " ".join(str(self.value).split())
        value = value if len(value) <= 60 else value[:59] + "…"
        return f"{' '.join(str(self.key).split())}: {value} - {self.why}" + (
            f" (nearest: {self.nearest})" if self.nearest else ""
        )


@dataclass(frozen=True, slots=True)
class Converted:
    recipe: dict[str, Any]
    """Content of a recipe file."""
    left: tuple[Left, ...]
    notes: tuple[str, ...]
    """Sentences for a person: what to do next, what was assumed."""


class Reading:
    """The settings of one file. A key whose value is null or empty says nothing in these programs, and is no setting."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._value = {key: one for key, one in value.items() if one not in (None, "", [], {})}
        self._seen: set[str] = set()
        self._recipe: dict[str, Any] = {}
        self._left: list[Left] = []
        self._notes: list[str] = []

    def take(self, key: str, default: Any = None) -> Any:
        """The key's value, from now on accounted for."""
        self._seen.add(key)
        return self._value.get(key, default)

    def number(self, key: str, default: float | None = None) -> Any:
        """A number; YAML reads ``2e-4`` as text."""
        value = self.take(key, default)
        return float(value) if isinstance(value, str) and re.fullmatch(r"[0-9.]+[eE][+-]?[0-9]+", value) else value

    def put(self, field: str, value: Any) -> None:
        """Set a dotted field of the recipe."""
        *groups, last = field.split(".")
        place = self._recipe
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value

    def carry(self, fields: Mapping[str, str], defaults: Mapping[str, Any] | None = None) -> None:
        """Take keys whose values mean the same here; ``defaults`` are the other program's, where ours differ."""
        for key, field in fields.items():
            value = self.number(key, (defaults or {}).get(key))
            if value is not None:
                self.put(field, value)

    def choose(self, key: str, field: str, values: Mapping[str, Any], default: str) -> None:
        """Take a key whose values have other names here; one without a name here is left behind, and ours holds."""
        value = str(self.take(key, default))
        if value in values:
            self.put(field, values[value])
        else:
            self.leave(key, f"not one of {', '.join(sorted(values))}", field)

    def agree(self, key: str, *values: Any, why: str, nearest: str | None = None) -> None:
        """A key whose ``values`` say what happens here anyway; any other is left behind."""
        if self.take(key, values[0]) not in values:
            self.leave(key, why, nearest)

    def leave(self, key: str, why: str, nearest: str | None = None) -> None:
        self._seen.add(key)
        if key in self._value:
            self._left.append(Left(key, self._value[key], why, nearest))

    def note(self, sentence: str) -> None:
        self._notes.append(sentence)

    def has(self, key: str) -> bool:
        return key in self._value

    def finish(self) -> Converted:
        for key in self._value:
            if key not in self._seen:
                self.leave(key, "this platform has no such setting")
        return Converted(self._recipe, tuple(self._left), tuple(self._notes))


def slug(text: str) -> str:
    """The nearest valid name: lower case, ``-`` for everything else, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "imported"


def base(reading: Reading, key: str) -> None:
    """The base model's slug, with the command that registers it."""
    model = str(reading.take(key, "model"))
    name = slug(model.rstrip("/").split("/")[-1])
    reading.put("base", name)
    kind = f"--folder {model}" if model.startswith((".", "/")) else f"--hub {model} --revision COMMIT"
    reading.note(f"Register the base model first: ft base add {name} {kind}")


def batch(reading: Reading, micro: str, accumulation: str, default: int) -> None:
    """Theirs is per device and step; ours is the whole batch, which the plan divides."""
    one, times = int(reading.take(micro, default)), int(reading.take(accumulation, 1))
    reading.put("training.batch_size", one * times)
    reading.note(
        f"training.batch_size is {one} x {times}, for one GPU: multiply by your number of GPUs; the plan divides it again."
    )


def warmup(reading: Reading, default: float) -> None:
    """Ours is a share of the steps, so a number of steps needs their total."""
    ratio, total = reading.number("warmup_ratio"), reading.take("max_steps")
    steps = reading.number("warmup_steps")
    if steps is not None and ratio is None and isinstance(steps, float) and 0 < steps < 1:
        ratio, steps = steps, None  # transformers takes a fraction there too
    reading.put("training.warmup_ratio", default if ratio is None else ratio)
    if steps is not None and ratio is None:
        if total:
            reading.put("training.warmup_ratio", round(steps / total, 6))
        else:
            reading.leave(
                "warmup_steps",
                "a share of all steps is needed, and their number is not known here",
                "training.warmup_ratio",
            )


OPTIMIZERS = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit"), "adamw_8bit"),
    "paged_adamw_8bit": "paged_adamw_8bit",
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "paged_adamw_32bit"),
}
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}


def precision(reading: Reading) -> None:
    half, brain = reading.take("fp16", False), reading.take("bf16", False)
    if half is True or (half == "auto" and not brain):
        reading.leave(
            "fp16", "fp16 is not offered: it needs loss scaling and overflows; bf16 holds instead", "training.precision"
        )
    reading.put("training.precision", "bf16" if brain not in (False, "false") or half else "fp32")


def leave_all(reading: Reading, groups: Mapping[tuple[str, str | None], tuple[str, ...]]) -> None:
    """``(why, nearest)`` -> keys."""
    for (why, nearest), keys in groups.items():
        for key in keys:
            reading.leave(key, why, nearest)
