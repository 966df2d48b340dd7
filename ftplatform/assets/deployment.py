"""``deployment``: what the engines should serve, and the proof that they do."""

import time
from collections.abc import Iterator

import dagster as dg

from ftplatform.assets.line import LineRun, line_run
from ftplatform.assets.reporting import check_specs, result, to_dagster
from ftplatform.core.checks import CheckResult
from ftplatform.core.errors import NotFound
from ftplatform.core.manifests import Adapter, Deployment, RegistryEntry
from ftplatform.partitions import lines
from ftplatform.resources import Platform
from ftplatform.serving.engine import EngineAway, HttpEngine

KEPT = 2
"""Served versions of a model that stay loaded: the champion and the one before it, for an instant way back."""
LOAD_SECONDS = 120.0


@dg.asset(
    partitions_def=lines,
    group_name="serving",
    owners=["team:ml-platform"],
    kinds={"openai"},
    check_specs=check_specs(
        "deployment",
        lines,
        {
            "fingerprint": "the engine answers a fixed probe with the log-probabilities measured after training",
        },
    ),
)
def deployment(
    context: dg.AssetExecutionContext, platform: Platform, adapter: Adapter, registry_entry: RegistryEntry
) -> Iterator[object]:
    """The champion under its immutable name, the route to it, and the probe; a recorded no-op for a quarantined candidate."""
    with line_run(context, platform) as run:
        entry, catalog = registry_entry, run.parts.catalog
        # Asked now and not taken from the entry: a later job may have made another version the champion.
        champion = catalog.champions.get(entry.model)
        deploys = entry.answers and champion is not None and champion["version"] == entry.version
        manifest = Deployment(
            model=entry.model,
            version=entry.version,
            action="deployed" if deploys else "none",
            served_name=entry.served_name,
            adapter=entry.adapter,
        )
        if not deploys:
            why = f"version {entry.version} is not the champion"
            if not entry.answers:
                why = f"{entry.model} scores text and is not served: name its dataset in a policy's reward_model grader"
            check = CheckResult("fingerprint", True, f"{why}: nothing was deployed")
        else:
            catalog.serving.want(
                entry.served_name,
                model=entry.model,
                kind=adapter.kind,
                weights=adapter.weights,
                base_weights=adapter.base_weights,
                template=adapter.template,
                fingerprint=adapter.fingerprint,
            )
            check = _probe(context, run, entry.served_name, adapter.fingerprint)
            if check.passed or check.severity == "warning":
                catalog.serving.set_route(entry.model, [(entry.served_name, 1.0)], actor=f"job {run.job}")
                catalog.serving.retire_older(entry.model, keep=KEPT)
        yield to_dagster(check)
        if not check.passed and check.severity == "error":
            raise dg.Failure(description=check.message, allow_retries=True)
        state = "promoted" if entry.verdict == "promote" else "quarantined"
        catalog.jobs.set_state(run.job, state, f"version {entry.version} of {entry.model}")
        run.release()
        yield result(
            manifest, {**manifest.model_dump(), "probe": check.message, "engine": run.parts.settings.serving_url}
        )


def _probe(context: dg.AssetExecutionContext, run: LineRun, name: str, fingerprint: str) -> CheckResult:
    """Wait until a running engine holds the name, then compare. No engine is no failure: one that starts later loads it."""
    live = run.parts.catalog.serving.live_engines()
    if not live:
        message = "no engine is running; the desired state is recorded and an engine loads it when it starts"
        return CheckResult("fingerprint", False, message, severity="warning")
    url = live[0]["url"]
    engine = HttpEngine(url)
    expected = run.parts.store.get_json(fingerprint)
    deadline = time.monotonic() + LOAD_SECONDS
    context.log.info(f"Waiting for {url} to serve {name}")
    while True:
        run.keep_alive()
        try:
            found = engine.probe(name, expected)
        except NotFound as error:
            found = EngineAway(url, str(error))
        if not isinstance(found, EngineAway):
            return CheckResult(
                "fingerprint", found.matches, found.message, numbers={"worst_difference": found.worst_difference}
            )
        if time.monotonic() > deadline:
            return CheckResult(
                "fingerprint", False, f"{name} did not answer within {LOAD_SECONDS:.0f} s: {found.reason}"
            )
        time.sleep(0.5)
