"""What of the weights an Axolotl file trains, and how they are held (``utils/schemas/peft.py``, ``loaders/``)."""

from __future__ import annotations

from typing import Any

from ftplatform.core.recipe import ATTENTION_AND_MLP
from ftplatform.recipes.convert.reading import Reading
from ftplatform.recipes.convert.shared import targets

_LORA = {"lora_r": "lora.rank", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout"}
_LORA_FLAGS = {"peft_use_rslora": "lora.use_rslora", "peft_use_dora": "lora.use_dora"}
_IA3 = {"ia3_target_modules": {"k_proj", "v_proj", "down_proj"}, "ia3_feedforward_modules": {"down_proj"}}
_NEAREST = _LORA | _LORA_FLAGS | dict.fromkeys(("lora_target_linear", "lora_target_modules"), "lora.target_modules")


def adapter(reading: Reading) -> None:
    four, eight = reading.flag("load_in_4bit"), reading.flag("load_in_8bit")
    kind = reading.take("adapter")
    if kind is None:
        _full(reading)
        return
    if kind not in ("lora", "qlora", "ia3"):
        reading.refuse("adapter", "not one of lora, qlora, ia3")
        return
    reading.put("parameterisation", "ia3" if kind == "ia3" else "lora")
    if kind == "qlora" and not four:
        reading.note("adapter: qlora without load_in_4bit, which Axolotl refuses: training.quantization is nf4.")
        reading.leave("load_in_8bit", "qlora is 4 bit", "training.quantization")
    if four or eight or kind == "qlora":
        reading.put("training.quantization", "nf4" if four or kind == "qlora" else "int8")
    if kind == "ia3":
        for key, ours in _IA3.items():
            if {str(one) for one in _listed(reading.take(key, [*ours]))} != ours:
                reading.leave(key, f"ia3 stands on {', '.join(sorted(ours))}", "parameterisation")
        for key in _NEAREST:
            reading.leave(key, "says nothing with ia3", "parameterisation")
        return
    _lora(reading)


def _full(reading: Reading) -> None:
    reading.put("parameterisation", "full")
    if reading.has("unfrozen_parameters"):
        reading.refuse("unfrozen_parameters", "blocks are frozen by number and nothing is unfrozen by name")
    for key in ("load_in_4bit", "load_in_8bit"):
        if reading.flag(key):
            reading.leave(
                key, "Axolotl refuses it without an adapter; full weights are not quantized", "parameterisation"
            )
    for key, nearest in _NEAREST.items():
        reading.leave(key, "says nothing without an adapter", nearest)


def _lora(reading: Reading) -> None:
    reading.carry(_LORA)
    named = reading.take("lora_target_modules")
    if reading.flag("lora_target_linear") or named == "all-linear":
        targets(reading, "lora_target_modules", ATTENTION_AND_MLP)
        if named != "all-linear" and {str(one) for one in _listed(named)} - set(ATTENTION_AND_MLP):
            reading.leave("lora_target_modules", "all linear layers of the blocks", "lora.target_modules")
    elif isinstance(named, list):
        targets(reading, "lora_target_modules", named)
    elif named:
        why = "a pattern; modules are named one by one, and all linear layers of the blocks are"
        reading.leave("lora_target_modules", why, "lora.target_modules")
    else:
        reading.note("The file names no modules, which Axolotl refuses: lora.target_modules are all linear layers.")
    reading.carry_flags(_LORA_FLAGS)
    if blocks := reading.take("peft_layers_to_transform"):
        reading.put("lora.layers_to_transform", blocks)
    start = reading.take("peft_init_lora_weights", True)
    if str(start).startswith("pissa") or start == "gaussian":
        reading.put("lora.init_lora_weights", str(start).partition("_")[0])
    elif start is not True:
        reading.leave("peft_init_lora_weights", "not one of true, gaussian, pissa", "lora.init_lora_weights")
    reading.leave("unfrozen_parameters", "an adapter leaves all weights of the base as they are", "lora.target_modules")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def qat(reading: Reading) -> None:
    """Fake quantization by torchao, in Axolotl's ``qat`` group."""
    given = reading.take("qat")
    if given is None:
        return
    given = {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else {}
    size = given.pop("group_size", 32)
    name = {("int4", None): "int4", ("int4", "int8"): "int8-int4"}.get(
        (str(given.pop("weight_dtype", "int8")), str(given.pop("activation_dtype", "")) or None)
    )
    if name is None or any(given.values()):
        reading.leave("qat", "accepted are int4 weights in groups, alone or with int8 activations", "training.qat")
        return
    reading.put("training.qat", name)
    reading.put("training.qat_group_size", size)
