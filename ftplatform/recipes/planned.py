"""What a plan made of a recipe, in the recipe's own field names."""

from __future__ import annotations

from typing import Any

_SAME = ("method", "parameterisation", "training", "lora", "mix", "replay")
_PLACEMENT = ("gpu", "gpus", "spot", "priority", "shared_memory_gb")
_OWN = ("micro_batch", "accumulation", "steps", "gradient_checkpointing")


def planned(plan: dict[str, Any]) -> dict[str, Any]:
    """Dotted field -> value of a plan's JSON: the recipe's fields as resolved, and below ``plan.`` what only a plan has."""
    found: dict[str, Any] = {}
    for name in _SAME:
        value = plan.get(name)
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            found[name] = value
    placement = plan["placement"]
    found |= {f"hardware.{name}": placement[name] for name in _PLACEMENT if name in placement}
    found["image"] = placement["image"]
    if "strategy" in plan:
        found["hardware.strategy"] = plan["strategy"]
    found |= {f"plan.{name}": plan[name] for name in _OWN if name in plan}
    return found | {"plan.base_revision": plan["base"]["revision"]}
