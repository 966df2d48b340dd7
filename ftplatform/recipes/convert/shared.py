"""What Axolotl and LLaMA-Factory have in common: transformers' training arguments, and PEFT's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftplatform.core.methods import BUILT_IN
from ftplatform.recipes.convert.reading import Reading, slug
from ftplatform.recipes.modules import OUTSIDE
from ftplatform.recipes.rules import compatible

OPTIMIZERS = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit"), "adamw_8bit"),
    "paged_adamw_8bit": "paged_adamw_8bit",
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "paged_adamw_32bit"),
}
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}


def base(reading: Reading, key: str) -> None:
    """The base model's slug, with the command that registers it."""
    model = str(reading.take(key))
    name = slug(model.rstrip("/").split("/")[-1])
    reading.put("base", name)
    kind = f"--folder {model}" if model.startswith((".", "/")) else f"--hub {model} --revision COMMIT"
    reading.note(f"Register the base model first: ft base add {name} {kind}")


def batch(reading: Reading, one: int, times: int, packed: bool) -> None:
    """Theirs is per device and step, in rows where nothing is packed; ours is the whole batch, which the plan divides."""
    reading.put("training.batch_size", one * times)
    said = f"training.batch_size is {one} x {times}, for one GPU: multiply by your number of GPUs; the plan divides it again."
    if not packed and packs(reading):
        said += (
            " There it counts rows, because packing is off; here it counts packed sequences of max_length tokens. For as many "
            "rows per step divide it by the rows that fit into one: max_length / mean tokens of a row."
        )
    reading.note(said)


def packs(reading: Reading) -> bool:
    """Whether this platform packs the rows of the file's method; pairs, answers and prompts are not packed."""
    method = reading.said("method")
    return method in BUILT_IN and BUILT_IN[method].unit == "packed sequences"


def total_steps(reading: Reading) -> None:
    """``max_steps``; 0 and -1 are transformers' way to say that epochs count."""
    if (steps := reading.whole("max_steps")) is not None and steps > 0:
        reading.put("training.max_steps", steps)


def schedule(reading: Reading, key: str, default: str, warm_up: float) -> None:
    """Schedule and warm-up; ``warm_up`` is the other program's share where the file says nothing."""
    reading.choose(key, "training.schedule", SCHEDULES, default)
    reading.agree("lr_scheduler_kwargs", {}, why="schedules have no arguments", nearest="training.schedule")
    if str(reading.take(key, default)) == "constant":
        # transformers' own "constant" has none; ours is its constant_with_warmup.
        reading.put("training.warmup_ratio", 0.0)
        for one in ("warmup_steps", "warmup_ratio"):
            reading.leave(one, "the schedule constant has no warm-up there", "training.schedule")
        return
    ratio, steps = reading.number("warmup_ratio"), reading.number("warmup_steps")
    total = reading.said("training.max_steps")
    if not steps or steps < 0:
        reading.put("training.warmup_ratio", warm_up if ratio is None and steps is None else ratio or 0.0)
        return
    reading.leave("warmup_ratio", "warmup_steps wins there", "training.warmup_ratio")
    if steps < 1:  # a share, in transformers 5
        reading.put("training.warmup_ratio", steps)
    elif total:
        reading.put("training.warmup_ratio", round(min(steps / total, 1.0), 6))
    else:
        reading.leave(
            "warmup_steps",
            "a share of all steps is needed, and their number is not known here; the recipe's default holds",
            "training.warmup_ratio",
        )


def optimizer(reading: Reading, key: str, default: str) -> None:
    reading.choose(key, "training.optimizer", OPTIMIZERS, default)
    for name, value in (("adam_beta1", 0.9), ("adam_beta2", 0.999), ("adam_epsilon", 1e-8)):
        if reading.number(name, value) != value:
            reading.leave(name, f"AdamW has {value} here", "training.optimizer")
    reading.leave("optim_args", "optimizers have no arguments", "training.optimizer")
    reading.leave("optim_target_modules", "every trained weight has the same optimizer", "training.optimizer")


def checkpointing(reading: Reading) -> None:
    """Of activations."""
    value = reading.take("gradient_checkpointing")
    if value is None:
        return
    reading.put("training.gradient_checkpointing", value not in (False, "false"))
    if value not in (True, False, "true", "false"):
        reading.leave(
            "gradient_checkpointing",
            "activations are computed again, and not moved to host memory",
            "training.gradient_checkpointing",
        )


def no_fp16(reading: Reading, *keys: str) -> bool:
    """Whether the file asks for fp16, which is listed; bf16 holds instead."""
    wanted = [key for key in keys if reading.one_of(key, "true", "false", "auto", default="false") != "false"]
    for key in wanted:
        reading.leave(
            key, "fp16 is not offered: it needs loss scaling and overflows; bf16 holds instead", "training.precision"
        )
    return bool(wanted)


def weights_in_bf16(reading: Reading, key: str) -> None:
    """Full weights kept in bf16, where the recipe's rules have it."""
    parts = {name: reading.said(f"training.{name}", "none") for name in ("quantization", "qat")}
    why = compatible(reading.said("method"), reading.said("parameterisation"), weights="bf16", **parts)
    if why is None and reading.said("training.optimizer", "adamw") == "adamw":
        why = "weights in bf16 need adamw_8bit, paged_adamw_8bit or paged_adamw_32bit; they stay in fp32"
    if why is None:
        reading.put("training.weights", "bf16")
    else:
        reading.leave(key, why, "training.weights")


def targets(reading: Reading, key: str, names: Sequence[Any]) -> None:
    """LoRA's modules, without embeddings and output layer."""
    named = dict.fromkeys(map(str, names))
    kept, dropped = [one for one in named if one not in OUTSIDE], [one for one in named if one in OUTSIDE]
    if dropped and not kept:
        reading.refuse(key, "an adapter on embeddings or the output layer alone cannot be served")
        return
    reading.put("lora.target_modules", kept)
    if dropped:
        reading.note(
            f"{', '.join(dropped)} left out of lora.target_modules: an adapter on embeddings or the output layer cannot be served."
        )
