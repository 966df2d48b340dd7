"""``ft up`` and ``ft env``: everything on this machine, started and stopped together."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import yaml

from ftplatform.cli.common import console, open_instance, show
from ftplatform.cli.instance import environment, prepare_home
from ftplatform.cli.processes import Processes, Service, free_port
from ftplatform.resources.platform import Parts
from ftplatform.settings import PROJECT, Settings, load_settings


def env() -> None:
    """Print the variables for Dagster's own commands: eval "$(ft env)"."""
    settings = load_settings()
    prepare_home(settings)
    for name, value in environment(settings).items():
        print(f"export {name}={shlex.quote(value)}")


def up() -> None:
    """Start webserver, daemon, MLflow and the inference server; Ctrl-C or SIGTERM stops them all."""
    with running() as (processes, urls, settings):
        processes.wait_ready()
        show(
            "running",
            ("what", "where"),
            [*urls.items(), ("uploads", settings.uploads_s3 or settings.uploads), ("logs", settings.home / "logs")],
        )
        console.print("Stop with Ctrl-C.")
        while True:
            processes.check()
            time.sleep(1.0)


@contextmanager
def running() -> Iterator[tuple[Processes, dict[str, str], Settings]]:
    """The services of this home while the block runs, started and perhaps not ready: (processes, addresses, settings with them)."""
    settings = load_settings()
    prepare_home(settings)
    serving = urlsplit(settings.serving_url)
    ports = {
        name: free_port(port) for name, port in (("dagster", 3000), ("mlflow", 5000), ("serving", serving.port or 8100))
    }
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    settings = replace(settings, serving_url=urls["serving"])
    os.environ["FTPLATFORM_SERVING"] = urls["serving"]
    # MLflow's own job runners are a dozen idle processes that nothing here uses.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    variables = {**os.environ, **environment(settings), **quiet}
    workspace = settings.home / "dagster" / "workspace.yaml"
    module = {"python_module": {"module_name": "ftplatform.definitions", "executable_path": sys.executable}}
    workspace.write_text(yaml.safe_dump({"load_from": [module]}), encoding="utf-8")
    with open_instance():
        # Opening makes the tables: three processes that find none make them at the same moment, and two of them fail.
        pass
    processes = Processes(_services(settings, ports, urls, workspace), variables, settings.home / "logs", PROJECT)
    with _terminate_as_interrupt():
        try:
            with processes:
                console.print("Starting Dagster, MLflow and the inference server ...")
                yield processes, urls, settings
        except KeyboardInterrupt:
            end_payloads(settings)
            console.print("Stopped.")


def end_payloads(settings: Settings) -> None:
    """A payload outlives its step by design; when everything is stopped it commits a checkpoint and ends too."""
    launcher = Parts(settings).launcher
    for handle in launcher.running():
        console.print(f"Ending {handle.folder} ...")
        launcher.cancel(handle, grace=20.0)


def _services(settings: Settings, ports: dict[str, int], urls: dict[str, str], workspace: Path) -> list[Service]:
    programs = Path(sys.executable).parent
    return [
        Service(
            "dagster-webserver",
            [str(programs / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(ports["dagster"]), "-w", str(workspace)],
            f"{urls['dagster']}/server_info",
        ),
        Service("dagster-daemon", [str(programs / "dagster-daemon"), "run", "-w", str(workspace)], None),
        Service(
            "mlflow",
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(ports["mlflow"]),
                "--workers",
                "1",
                "--backend-store-uri",
                settings.tracking_uri,
                "--default-artifact-root",
                str(settings.home / "mlflow-artifacts"),
            ],
            f"{urls['mlflow']}/health",
        ),
        Service(
            "serving",
            [sys.executable, "-m", "ftplatform.serving", "--host", "127.0.0.1", "--port", str(ports["serving"])],
            f"{urls['serving']}/health",
        ),
    ]


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does, so that one way down stops everything."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
