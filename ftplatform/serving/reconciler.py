"""Brings an engine to the desired state and keeps it there: after a change, a failure or a restart."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from ftplatform.serving.desired import DesiredSource, DesiredState, Route, ServedModel

_log = logging.getLogger(__name__)
LONGEST_WAIT = 60.0


class Loaded(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def wanted(self) -> ServedModel: ...


class Holder(Protocol):
    """The part of an engine that the reconciler drives; ``embedded_pool.Pool`` is one."""

    def models(self) -> list[Any]: ...
    def load(self, wanted: ServedModel) -> None: ...
    def unload(self, name: str) -> None: ...
    def routes(self) -> list[Route]: ...
    def set_routes(self, routes: list[Route]) -> None: ...


@dataclass(frozen=True, slots=True)
class Observed:
    """One model as it is: ``since`` and ``retry_at`` in seconds since the epoch."""

    name: str
    weights: str
    state: Literal["loading", "serving", "failed"]
    message: str = ""
    attempts: int = 0
    since: float = 0.0
    retry_at: float | None = None


class Reconciler:
    """Polls ``source`` every ``interval`` seconds, in its own thread.

    What it loaded and is no longer desired is unloaded; what somebody loaded by hand is left alone. A route moves only
    when all its new targets are loaded, and its old targets stay until then, so a new champion never costs a request.
    ``report`` gets the observed state after every round, also as a sign of life.
    """

    def __init__(
        self,
        source: DesiredSource,
        holder: Holder,
        *,
        interval: float = 1.0,
        report: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._source = source
        self._holder = holder
        self._interval = interval
        self._report = report
        self._observed: dict[str, Observed] = {}
        self._mine: set[str] = set()
        self._problems: dict[str, str] = {}
        self._waiting_routes: list[str] = []
        self._reached = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def state(self) -> dict[str, Any]:
        """JSON: ``reached`` (the desired state is served), the models, routes still waiting for a target, problems by
        subject.
        """
        return {
            "reached": self._reached,
            "models": [asdict(observed) for observed in list(self._observed.values())],
            "waiting_routes": list(self._waiting_routes),
            "problems": dict(self._problems),
        }

    def _run(self) -> None:
        while not self._stop.is_set():
            self.step()
            self._stop.wait(self._interval)

    def step(self) -> None:
        """One round; never raises, because the reconciler has to outlive every trouble it is there for."""
        try:
            desired = self._source.read()
        except Exception as error:  # noqa: BLE001 - see above
            self._problem("desired state", error)
        else:
            self._solved("desired state")
            self._load(desired)
            kept = self._route(desired)
            self._unload(desired, kept)
            serving = {model.name for model in self._holder.models()}
            self._reached = not self._waiting_routes and all(model.name in serving for model in desired.models)
        self._tell()

    def _load(self, desired: DesiredState) -> None:
        loaded = {model.name: model.wanted for model in self._holder.models()}
        for wanted in desired.models:
            before = self._observed.get(wanted.name)
            if wanted.name in loaded and loaded[wanted.name].identity == wanted.identity:
                if before is None or before.state != "serving":
                    self._observed[wanted.name] = Observed(wanted.name, wanted.weights, "serving", since=time.time())
                continue
            if before is not None and before.weights != wanted.weights:
                before = None
            if before is not None and before.retry_at is not None and time.time() < before.retry_at:
                continue
            self._load_one(wanted, before)

    def _load_one(self, wanted: ServedModel, before: Observed | None) -> None:
        attempts = 1 + (before.attempts if before is not None and before.state == "failed" else 0)
        loading = Observed(wanted.name, wanted.weights, "loading", attempts=attempts, since=time.time())
        self._observed[wanted.name] = loading
        self._tell()
        try:
            self._holder.load(wanted)
        except Exception as error:  # noqa: BLE001 - one model fails, the others are loaded
            wait = min(LONGEST_WAIT, 2.0 ** (attempts - 1))
            message = f"{type(error).__name__}: {error}"
            self._observed[wanted.name] = replace(loading, state="failed", message=message, retry_at=time.time() + wait)
            self._problem(wanted.name, error)
        else:
            self._mine.add(wanted.name)
            self._observed[wanted.name] = replace(loading, state="serving", since=time.time())
            self._solved(wanted.name)
            _log.info("serving %s", wanted.name)

    def _route(self, desired: DesiredState) -> set[str]:
        """Move the routes whose targets are all there; returns the served names that any route uses now."""
        loaded = {model.name for model in self._holder.models()}
        now = {route.model: route for route in self._holder.routes()}
        routes, waiting = [], []
        for route in desired.routes:
            if {name for name, _ in route.targets} <= loaded:
                routes.append(route)
                continue
            waiting.append(route.model)
            # With no route before, requests get 503 for the missing target, which says that asking again helps.
            routes.append(now.get(route.model, route))
        self._waiting_routes = waiting
        if {route.model: route for route in routes} != now:
            self._holder.set_routes(routes)
        return {name for route in routes for name, _ in route.targets}

    def _unload(self, desired: DesiredState, routed: set[str]) -> None:
        wanted = {model.name for model in desired.models}
        loaded = {model.name for model in self._holder.models()}
        for name in sorted((self._mine & loaded) - wanted - routed):
            self._holder.unload(name)
            _log.info("no longer serving %s", name)
        self._mine &= {model.name for model in self._holder.models()}
        for name in self._observed.keys() - wanted - self._mine:
            del self._observed[name]
            self._solved(name)

    def _problem(self, subject: str, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        if self._problems.get(subject) != message:
            _log.error("%s: %s", subject, message)
        self._problems[subject] = message

    def _solved(self, subject: str) -> None:
        self._problems.pop(subject, None)

    def _tell(self) -> None:
        if self._report is None:
            return
        try:
            self._report(self.state())
        except Exception as error:  # noqa: BLE001 - a lost report is reported by the next
            self._problem("report", error)
        else:
            self._solved("report")
