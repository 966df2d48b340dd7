"""The trials of a search, a few at a time: begun, watched, stopped early, ended; each step written down before the next."""

import json
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event, RLock
from typing import Any

import dagster as dg

from ftplatform.assets.adapter import train_once
from ftplatform.assets.line import LineRun
from ftplatform.assets.payloads import Stopped, attempts_of
from ftplatform.assets.search_trial import Prepared, prepare, progress_of, score_of, validation_figure
from ftplatform.core.errors import PayloadFailed, PlanRefused
from ftplatform.core.manifests import CuratedDataset
from ftplatform.core.recipe import Recipe
from ftplatform.core.search_config import Objective
from ftplatform.core.search_result import Trial
from ftplatform.launchers.base import Handle
from ftplatform.search.caps import over_cap
from ftplatform.search.documents import Study
from ftplatform.search.study import NINTHS, look, ninth, suggest

FAILURES = 3
"""Trials in a row that failed, for reasons that are not their values', those that were stopped early not counted: after that the search
costs and teaches nothing.
"""
_STOPPED = "stopped early: its figure on the validation rows was not in the best third"


class Searcher:
    """Trials run in threads that wait for payloads; everything that is decided is decided under one lock, by what is written down."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        run: LineRun,
        recipe: Recipe,
        curated: CuratedDataset,
        study: Study,
        objective: Objective,
    ) -> None:
        assert recipe.search is not None
        self._context, self._run, self._curated, self._study = context, run, curated, study
        self._recipe, self._config, self._objective = recipe, recipe.search, objective
        self._figure = validation_figure(recipe.method)
        self._lock, self._ending = RLock(), Event()
        self._trials = {trial.number: trial for trial in study.trials()}
        # What failed did so for reasons of the day: another search tries it once more.
        self._unfinished = [trial for trial in self._trials.values() if trial.state in ("running", "failed")]
        self.stopped = ""
        """Why no further trial is begun, before all were."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        with self._lock:
            return tuple(self._trials[number] for number in sorted(self._trials))

    def search(self, slots: int) -> None:
        """Until there are as many trials as the recipe asks for, a cap is reached, or nothing new is left to try.

        An exception, also one from outside, cancels the payloads; their trials stay written down as running and go on next time.

        Raises:
            PayloadFailed: the job was cancelled, or several trials in a row failed.
            InvalidConfig, PlanRefused: nothing of this search can be trained.
        """
        with ThreadPoolExecutor(slots, thread_name_prefix="trial") as pool:
            running: set[Future[Trial]] = set()
            try:
                while True:
                    while len(running) < slots and (prepared := self._next()) is not None:
                        running.add(pool.submit(self._run_trial, prepared))
                    if not running:
                        return
                    done, running = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                    for one in done:
                        self._ended(one.result())
            except BaseException:
                self._ending.set()
                raise

    # Beginning

    def _next(self) -> Prepared | None:
        while self._unfinished:
            trial = self._unfinished.pop(0)
            if trial.state == "failed":
                trial = trial.model_copy(update={"state": "running", "why": ""})
                self._keep(trial)
            self._context.log.info(f"trial {trial.number}: goes on")
            try:
                return prepare(self._run, self._recipe, self._curated, trial)
            except PlanRefused as error:
                self._ended(trial.model_copy(update={"state": "pruned", "why": f"refused by its plan: {error}"}))
        while len(self._trials) < self._config.trials and not self.stopped:
            parameters = suggest(self._recipe, self._objective, self.trials)
            if parameters is None:
                self.stopped = "the sampler draws only values that were tried already"
                return None
            trial = Trial(number=len(self._trials), parameters=parameters)
            try:
                prepared = prepare(self._run, self._recipe, self._curated, trial)
            except PlanRefused as error:
                self._ended(trial.model_copy(update={"state": "pruned", "why": f"refused by its plan: {error}"}))
                continue
            hours, price = prepared.trial.planned_hours, prepared.trial.planned_price
            why = over_cap(self._config, self.trials, hours, price, prepared.plan.currency)
            if why:
                self.stopped = why
                return None
            self._keep(prepared.trial)
            self._context.log.info(f"trial {trial.number}: {_words(parameters)}")
            return prepared
        return None

    # Running, in a thread of its own

    def _run_trial(self, prepared: Prepared) -> Trial:
        before, began = prepared.trial, time.monotonic()
        number, place = before.number, prepared.plan.placement
        rate = self._run.parts.hardware.get(place.gpu).hourly(gpus=place.gpus, spot=place.spot)

        def now(**changes: Any) -> Trial:
            hours = before.hours + (time.monotonic() - began) / 3600
            changes |= {"hours": round(hours, 6), "price": round(hours * rate, 6)}
            return self._trials[number].model_copy(update=changes)

        def stop(handle: Handle) -> bool:
            return self._ending.is_set() or self._hopeless(number, progress_of(handle), now)

        try:
            made, _ = train_once(self._context, self._run, prepared.spec, f"trial {number}", stop)
        except PayloadFailed as error:
            if self._ending.is_set() or self._cancelled():
                raise
            return now(**self._how_it_failed(prepared, error))
        # What its payload's lines did not show yet: a training may be over before it was looked at, or was there already.
        metrics = self._run.parts.store.get_bytes(made["artifacts"]["metrics"]).splitlines()
        if self._hopeless(number, [{**json.loads(line), "of": prepared.spec.steps} for line in metrics], now):
            return now(state="pruned", why=_STOPPED)
        loss, weights = made["numbers"].get(self._figure), made["artifacts"]["weights"]
        try:
            score = score_of(
                self._context, self._run, prepared, made, self._objective, lambda handle: self._ending.is_set()
            )
        except PayloadFailed as error:
            if self._ending.is_set() or self._cancelled():
                raise
            return now(state="failed", why=_first_line(error), loss=loss, weights=weights)
        return now(state="complete", score=score, loss=loss, weights=weights)

    def _hopeless(self, number: int, lines: Iterable[dict[str, Any]], now: Any) -> bool:
        """Whether ASHA stops the trial by what its payload says; asked once for each ninth of the training, in order."""
        if self._config.pruner == "none":
            return False
        with self._lock:
            if self._trials[number].why:
                return True
            for line in lines:
                if self._figure not in line or "step" not in line:
                    continue
                part = ninth(int(line["step"]), int(line["of"]))
                seen = self._trials[number].seen
                if not max(seen, default=0) < part < NINTHS:
                    continue
                trial = now(seen={**seen, part: line[self._figure]})
                stop, rungs = look(self._recipe, self._objective, self.trials, trial)
                # The reason is written down before the payload is stopped: killed in between, the search stops it next time.
                self._keep(trial.model_copy(update={"rungs": rungs, "why": _STOPPED if stop else ""}))
                if stop:
                    self._context.log.info(f"trial {number}: {_STOPPED} after {part} of {NINTHS} parts")
                    return True
        return False

    def _how_it_failed(self, prepared: Prepared, error: PayloadFailed) -> dict[str, Any]:
        if isinstance(error, Stopped):
            return {"state": "pruned", "why": _STOPPED}
        last = attempts_of(self._run.parts, self._run.job, prepared.spec.key)[-1]["outcome"]
        by_its_values = last in ("diverged", "out_of_memory")
        return {"state": "pruned" if by_its_values else "failed", "why": _first_line(error)}

    def _cancelled(self) -> bool:
        return self._run.parts.catalog.jobs.wants_cancel(self._run.job)

    # Ending

    def _ended(self, trial: Trial) -> None:
        self._keep(trial)
        figure = f", {self._objective} {trial.score:.4g}" if trial.score is not None else f": {trial.why}"
        self._context.log.info(f"trial {trial.number}: {trial.state}{figure}")
        last = [one for one in self.trials if one.state in ("complete", "failed")][-FAILURES:]
        if trial.state == "failed" and len(last) == FAILURES and all(one.state == "failed" for one in last):
            raise PayloadFailed(f"{FAILURES} trials in a row failed, the last one: {trial.why}", retry_helps=True)

    def _keep(self, trial: Trial) -> None:
        with self._lock:
            self._study.save(trial)
            self._trials[trial.number] = trial


def _words(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
