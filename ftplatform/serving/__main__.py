"""``python -m ftplatform.serving --host --port``: the embedded engine as a process, reconciled with the catalog."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from ftplatform.catalog import open_catalog
from ftplatform.serving.catalog_source import CatalogSource
from ftplatform.serving.desired import DesiredSource
from ftplatform.serving.embedded import Deps, make_app
from ftplatform.serving.embedded_pool import Pool
from ftplatform.serving.embedded_scheduler import Scheduler
from ftplatform.serving.reconciler import Reconciler
from ftplatform.settings import Settings, load_settings
from ftplatform.store import open_store


def build_app(
    settings: Settings, source: DesiredSource | None, report: Callable[[dict[str, Any]], None] | None = None
) -> FastAPI:
    """The engine over the store of ``settings``, kept at the state ``source`` gives (None: only what is loaded over
    HTTP).

    ``report`` gets the observed state (JSON, see ``Reconciler.state``) about every second.
    """
    scheduler = Scheduler(threads=settings.threads)
    pool = Pool(
        open_store(settings.store, settings.home / "cache" / "objects"), scheduler, settings.home / "cache" / "serving"
    )
    reconciler = Reconciler(source, pool, report=report) if source is not None else None
    return make_app(Deps(scheduler, pool, reconciler))


def main(arguments: list[str] | None = None) -> None:
    settings = load_settings()
    address = urlsplit(settings.serving_url)
    parser = argparse.ArgumentParser(prog="python -m ftplatform.serving", description=__doc__)
    parser.add_argument("--host", default=address.hostname or "127.0.0.1")
    parser.add_argument("--port", type=int, default=address.port or 8100)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # The engine's thread gives the interpreter up at every torch operation, some hundred times a token, and a thread
    # that loads a model gives it back only after this interval: with the default 5 ms, streams stood still while
    # something was loaded.
    sys.setswitchinterval(0.0005)
    catalog = open_catalog(settings.catalog_url)
    app = build_app(
        settings, CatalogSource(catalog), lambda state: catalog.serving.report_engine(settings.serving_url, state)
    )
    # At SIGTERM, answers under way get five seconds; what is left is then cut off.
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
