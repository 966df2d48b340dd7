"""What Optuna says about a search, asked with all of its trials each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftplatform.core.digests import digest_json
from ftplatform.core.methods import find_method
from ftplatform.core.recipe import Recipe
from ftplatform.core.search_config import MAXIMIZED, Objective
from ftplatform.core.search_result import Trial
from ftplatform.search.space import decode, distributions, encode, own_values

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

NINTHS = 9
"""Parts of a training that ASHA counts in: with a third going on at each rung, a trial is looked at after one and after three."""
REDUCTION = 3
STARTUP_SHARE = 0.3
"""Of the trials, those drawn at random before the sampler has enough to go by; at most Optuna's ten."""
_DRAWS = 20
_STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING"}


def suggest(recipe: Recipe, objective: Objective, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """Values for the next trial, by TPE (arXiv:2304.11127); the same for the same trials so far, whoever asks.

    The first trial has the recipe's own values, where the space holds them: what all others are to be better than. None where twenty draws in a row gave only values that were tried already.
    """
    assert recipe.search is not None
    if not trials and (own := own_values(recipe)) is not None:
        return own
    known = [trial.parameters for trial in trials]
    for draw in range(_DRAWS):
        seed = int(digest_json([recipe.search.seed, len(trials), draw])[:8], 16)
        drawn = _study(recipe, objective, trials, seed).ask(fixed_distributions=distributions(recipe)).params
        parameters = decode(recipe, drawn)
        if parameters not in known:
            return parameters
    return None


def look(recipe: Recipe, objective: Objective, trials: Sequence[Trial], trial: Trial) -> tuple[bool, tuple[float, ...]]:
    """Whether ASHA stops ``trial`` at the last ninth it has ``seen``, and what it has compared at the rungs so far.

    Validation figures of losses and rewards are compared; the study may maximize another: their sign is turned where it does.
    """
    others = [one for one in trials if one.number != trial.number]
    study = _study(recipe, objective, [*others, trial], seed=0)
    asked = study.trials[-1]
    stop = study.pruner.prune(study, asked)
    marks = study.trials[-1].system_attrs
    rungs = sorted(name for name in marks if name.startswith("completed_rung_"))
    return stop, tuple(marks[name] for name in rungs)


def importance(recipe: Recipe, objective: Objective, trials: Sequence[Trial]) -> dict[str, float]:
    """Parameter -> share of what makes a trial one of the best, largest first; empty with fewer than four complete trials."""
    from optuna.importance import get_param_importances

    if sum(trial.state == "complete" for trial in trials) < 4:
        return {}
    return dict(get_param_importances(_study(recipe, objective, trials, seed=0)))


def ninth(step: int, of: int) -> int:
    """How many ninths of the training are done."""
    return step * NINTHS // of


def _study(recipe: Recipe, objective: Objective, trials: Sequence[Trial], seed: int) -> Study:
    import optuna

    assert recipe.search is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    startup = max(3, min(10, round(recipe.search.trials * STARTUP_SHARE)))
    study = optuna.create_study(
        direction="maximize" if objective in MAXIMIZED else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
    )
    study.add_trials([_frozen(recipe, objective, trial) for trial in trials])
    return study


def _frozen(recipe: Recipe, objective: Objective, trial: Trial) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    # The figure looked at during training is a reward or a loss, whatever the objective is; Optuna knows one direction.
    sign = 1.0 if find_method(recipe.method).generates == (objective in MAXIMIZED) else -1.0
    return create_trial(
        state=TrialState[_STATES[trial.state]],
        value=trial.score if trial.state == "complete" else None,
        params=encode(recipe, trial.parameters),
        distributions=distributions(recipe),
        intermediate_values={ninth: sign * figure for ninth, figure in trial.seen.items()},
        system_attrs={f"completed_rung_{number}": value for number, value in enumerate(trial.rungs)},
    )
