"""Evaluations while training, what is chosen by them, checkpoints and traces: all of them come every so many steps here."""

from __future__ import annotations

import math

from ftplatform.recipes.convert.reading import Reading

_EVERY = "training.evaluate_every"
_SAVED = "training.checkpoint_every"


def checkpoints(reading: Reading) -> None:
    reading.carry({"save_total_limit": "training.keep_checkpoints"})
    _every(reading, "save_steps", _SAVED)
    _per_epoch(reading, "saves_per_epoch", _SAVED)
    reading.agree("save_strategy", "steps", why="checkpoints come every so many steps", nearest=_SAVED)


def evaluations(reading: Reading, default: str, patience: str) -> None:
    """``default`` is the strategy of a file that names none; ``patience`` the key of early stopping."""
    key = "eval_strategy" if reading.has("eval_strategy") else "evaluation_strategy"
    # YAML reads `no` as false.
    strategy = {"False": "no"}.get(str(reading.take(key, default)), str(reading.take(key, default)))
    if strategy == "steps":
        _every(reading, "eval_steps", _EVERY)
        if not reading.has("eval_steps"):
            _per_epoch(reading, "evals_per_epoch", _EVERY)
        if not reading.said(_EVERY):
            reading.leave(key, "a number of steps is needed", _EVERY)
    elif strategy != "no":
        reading.leave(key, "evaluations come every so many steps", _EVERY)
    if reading.has("eval_steps"):
        reading.leave("evals_per_epoch", "eval_steps says it", _EVERY)
    if not reading.said(_EVERY):
        for unused in ("eval_steps", "evals_per_epoch"):
            reading.leave(unused, f"not in use there, with the strategy {strategy}", _EVERY)
    _chosen_by(reading, patience)


def profile(reading: Reading, key: str) -> None:
    reading.carry({key: "training.profile_steps"})
    reading.agree(f"{key}_start", 0, why="traces begin at the third step", nearest="training.profile_steps")


def _chosen_by(reading: Reading, patience: str) -> None:
    known = bool(reading.said(_EVERY))
    needs = "it goes by evaluations, so set training.evaluate_every too"
    if count := reading.whole(patience):
        if known:
            reading.put("training.patience", count)
        else:
            reading.leave(patience, needs, "training.patience")
    if reading.flag("load_best_model_at_end"):
        if known:
            reading.put("training.keep", "best")
        else:
            reading.leave("load_best_model_at_end", needs, "training.keep")
    best = "the best is that of the least loss on the validation rows"
    reading.agree("metric_for_best_model", "eval_loss", "loss", why=best, nearest="training.keep")
    reading.agree("greater_is_better", False, why=best, nearest="training.keep")


def _every(reading: Reading, key: str, field: str) -> None:
    """Steps between two; transformers takes a number below 1 as a share of all steps."""
    value, total = reading.number(key), reading.said("training.max_steps")
    if value is None:
        return
    if value >= 1:
        reading.put(field, int(value))
    elif value > 0 and total:
        reading.put(field, math.ceil(value * total))
    else:
        reading.leave(key, "a number of steps is needed, and that of the whole training is not known here", field)


def _per_epoch(reading: Reading, key: str, field: str) -> None:
    times, total = reading.number(key), reading.said("training.max_steps")
    if times and total and not reading.said(field):
        reading.put(field, math.ceil(total / (times * reading.said("training.epochs", 1))))
    else:
        reading.leave(key, "a number of steps is needed, and that of an epoch is not known here", field)
