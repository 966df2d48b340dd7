"""Environment -> typed settings. The only module that reads the environment for the platform's own configuration.

Every variable has a default, so a laptop needs none of them; a cluster sets the same ones to Postgres, S3 and MLflow addresses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import StoreAddress
from ftplatform.core.trackers import PACKAGES, TrackerAddress, parse_trackers

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    """``FTPLATFORM_HOME``: everything the platform writes on this machine; default ``.ftplatform`` beside the project."""
    uploads: Path
    """``FTPLATFORM_UPLOADS``: the folder the upload sensor watches; default ``<home>/uploads``."""
    uploads_s3: str | None
    """The same variable when it is ``s3://bucket/prefix``: the sensor watches that and not the folder."""
    store: StoreAddress
    """``FTPLATFORM_STORE`` (``file:///folder`` or ``s3://bucket/prefix``) and ``FTPLATFORM_S3_ENDPOINT``."""
    catalog_url: str
    """``FTPLATFORM_CATALOG``: SQLAlchemy address, SQLite or ``postgresql+psycopg2://``."""
    tracking_uri: str
    """``FTPLATFORM_TRACKING``: MLflow tracking and registry address."""
    trackers: tuple[TrackerAddress, ...]
    """``FTPLATFORM_TRACKERS``: more trackers beside MLflow, comma-separated: ``tensorboard:/folder``, ``wandb:/folder`` or
    ``wandb:https://host``, ``aim:/folder`` or ``aim:aim://host:port``.
    """
    serving_url: str
    """``FTPLATFORM_SERVING``: the engine's address, where the server listens and where deployments are probed."""
    executor: str
    """``FTPLATFORM_EXECUTOR``: ``local`` (steps in the run's process) or ``k8s`` (a pod per step)."""
    hardware: Path | None
    """``FTPLATFORM_HARDWARE``: a hardware catalogue of your own; default is the one in the package."""
    default_gpu: str
    """``FTPLATFORM_GPU``: the hardware catalogue's entry that payloads on this machine get, and base models on a cluster."""
    gpus: tuple[str, ...]
    """``FTPLATFORM_GPUS``: entries, comma-separated, that ``gpu: auto`` may choose from on a cluster, or ``all``; default is
    ``FTPLATFORM_GPU`` alone. Empty here means all.
    """
    gpu_image: str | None
    """``FTPLATFORM_GPU_IMAGE``: image of the pods of GPU assets, with the ``train`` extra; a plan's own image wins."""
    training_slots: int
    """``FTPLATFORM_TRAINING_SLOTS``: training payloads at a time on this deployment (the Dagster pool's limit)."""
    threads: int
    """``FTPLATFORM_THREADS``: torch threads of a payload. 1 by default: OpenMP collapses when processes share cores."""
    payload_python: str | None
    """``FTPLATFORM_PAYLOAD_PYTHON``: interpreter with the ``train`` extra; default is the running one."""
    tenants: Path
    """``FTPLATFORM_TENANTS``: folder of ``<tenant>.yaml`` files; default ``<home>/tenants``."""
    secret_file: Path
    """``FTPLATFORM_SECRET_FILE``: the key behind pseudonyms and the erasure index; default ``<home>/secret-key``, made
    when missing.
    """
    secret_key: str | None = field(repr=False)
    """``FTPLATFORM_SECRET_KEY``: the key itself, where machines share no disk: all of one deployment need the same."""
    data_workers: int
    """``FTPLATFORM_DATA_WORKERS``: processes that read and curate a large upload; default one per core, at most 8."""
    ray: str | None
    """``FTPLATFORM_RAY``: address of a Ray cluster (``auto``, ``ray://host:10001``, ``local``) that does it instead."""
    teachers: Mapping[str, str | None] = field(repr=False)
    """``FTPLATFORM_TEACHERS``: ``ADDRESS [VARIABLE]``, comma-separated: the endpoints that ``synthetic_rows`` may call, each with
    the variable that holds its key. Held here as address -> key. Default: the platform's own server.
    """
    teacher_calls: int
    """``FTPLATFORM_TEACHER_CALLS``: most calls of a teacher by one run of ``synthetic_rows``."""
    lease_seconds: int
    """``FTPLATFORM_LEASE_SECONDS``: how long a model line stays taken after its holder's last sign of life."""


def _whole(env: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = env.get(name, str(default))
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise InvalidConfig(f"{name}={text!r}: accepted is a whole number from {least}")
    return int(text)


def _one_of(env: Mapping[str, str], name: str, *allowed: str) -> str:
    text = env.get(name, allowed[0])
    if text not in allowed:
        raise InvalidConfig(f"{name}={text!r}: accepted are {', '.join(allowed)}")
    return text


def _gpus(env: Mapping[str, str]) -> tuple[str, ...]:
    text = env.get("FTPLATFORM_GPUS") or env.get("FTPLATFORM_GPU") or "cpu"
    return () if text.strip() == "all" else tuple(name.strip() for name in text.split(",") if name.strip())


def _teachers(env: Mapping[str, str], serving_url: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for entry in (env.get("FTPLATFORM_TEACHERS") or f"{serving_url}/v1").split(","):
        address, *variables = entry.split() or [""]
        if not address.startswith(("http://", "https://")) or len(variables) > 1:
            raise InvalidConfig(
                f"FTPLATFORM_TEACHERS has {entry!r}: accepted is ADDRESS or ADDRESS VARIABLE, comma-separated"
            )
        if variables and not env.get(variables[0]):
            raise InvalidConfig(f"FTPLATFORM_TEACHERS names {variables[0]} for the key of {address}, which is not set")
        found[address.rstrip("/")] = env[variables[0]] if variables else None
    return found


def _trackers(env: Mapping[str, str]) -> tuple[TrackerAddress, ...]:
    found = parse_trackers(env.get("FTPLATFORM_TRACKERS") or "")
    if env.get("FTPLATFORM_PAYLOAD_PYTHON") or env.get("FTPLATFORM_EXECUTOR", "local") != "local":
        # Trainings run under another interpreter, which looks for itself before it loads a model.
        return found
    if missing := [PACKAGES[one.kind] for one in found if find_spec(PACKAGES[one.kind]) is None]:
        raise InvalidConfig(
            f"FTPLATFORM_TRACKERS names {', '.join(missing)}, which is not installed here: `pip install {' '.join(missing)}`, or "
            "leave it out"
        )
    return found


def load_settings(env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Raises:
        InvalidConfig: naming the variable, what was found and what is accepted.
    """
    env = os.environ if env is None else env
    uploads = env.get("FTPLATFORM_UPLOADS") or ""
    bucket = re.fullmatch(r"s3://[^/]+(/.*)?", uploads)
    if "://" in uploads and bucket is None:
        raise InvalidConfig(f"FTPLATFORM_UPLOADS={uploads!r}: accepted are a folder and s3://bucket/prefix")
    home = Path(env.get("FTPLATFORM_HOME") or PROJECT / ".ftplatform").expanduser().absolute()
    serving_url = env.get("FTPLATFORM_SERVING") or "http://127.0.0.1:8100"
    return Settings(
        home=home,
        uploads=Path((not bucket and uploads) or home / "uploads").expanduser().absolute(),
        uploads_s3=uploads if bucket else None,
        store=StoreAddress(
            url=env.get("FTPLATFORM_STORE") or (home / "store").as_uri(), endpoint=env.get("FTPLATFORM_S3_ENDPOINT")
        ),
        catalog_url=env.get("FTPLATFORM_CATALOG") or f"sqlite:///{home / 'catalog.db'}",
        tracking_uri=env.get("FTPLATFORM_TRACKING") or f"sqlite:///{home / 'mlflow.db'}",
        trackers=_trackers(env),
        serving_url=serving_url,
        executor=_one_of(env, "FTPLATFORM_EXECUTOR", "local", "k8s"),
        hardware=Path(env["FTPLATFORM_HARDWARE"]) if env.get("FTPLATFORM_HARDWARE") else None,
        default_gpu=env.get("FTPLATFORM_GPU") or "cpu",
        gpus=_gpus(env),
        gpu_image=env.get("FTPLATFORM_GPU_IMAGE") or None,
        training_slots=_whole(env, "FTPLATFORM_TRAINING_SLOTS", 1, 1),
        threads=_whole(env, "FTPLATFORM_THREADS", 1, 1),
        payload_python=env.get("FTPLATFORM_PAYLOAD_PYTHON"),
        tenants=Path(env.get("FTPLATFORM_TENANTS") or home / "tenants").expanduser().absolute(),
        secret_file=Path(env.get("FTPLATFORM_SECRET_FILE") or home / "secret-key").expanduser().absolute(),
        secret_key=env.get("FTPLATFORM_SECRET_KEY") or None,
        data_workers=_whole(env, "FTPLATFORM_DATA_WORKERS", min(8, len(os.sched_getaffinity(0))), 1),
        ray=env.get("FTPLATFORM_RAY") or None,
        teachers=_teachers(env, serving_url),
        teacher_calls=_whole(env, "FTPLATFORM_TEACHER_CALLS", 10_000, 1),
        lease_seconds=_whole(env, "FTPLATFORM_LEASE_SECONDS", 120, 10),
    )
