"""The environment of a payload: an allow-list, so that no secret of the orchestrator reaches a tenant's process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ftplatform.core.payload import PayloadSpec, TrainSpec

MARK = "FTPLATFORM_PAYLOAD"
"""Holds the attempt's folder: every descendant carries it, so none can be lost by starting a session of its own."""
_NAMES = (
    *("PATH", "HOME", "USER", "TMPDIR", "TZ", "LANG", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
_PREFIXES = ("LC_", "NCCL_", "GLOO_")
_TRACKER = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_INSECURE_TLS",
)
_WANDB = ("WANDB_API_KEY", "WANDB_ENTITY")
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
_PACKAGE = Path(__file__).resolve().parents[2]


def clean_environment(
    source: Mapping[str, str], spec: PayloadSpec, folder: Path, cache: Path, devices: Sequence[str] = ()
) -> dict[str, str]:
    """What a payload of ``spec`` in ``folder`` gets of ``source``, and of the machine the GPUs ``devices``.

    Cloud credentials pass only where the store is S3, the tracker's only to a training with a tracker that is a server.
    What libraries cache goes below ``cache``, because nothing is written outside the platform's home.
    """
    names = set(_NAMES)
    prefixes = _PREFIXES + (("AWS_",) if spec.store.url.startswith("s3:") else ())
    if isinstance(spec, TrainSpec) and spec.tracking and spec.tracking.uri.startswith("http"):
        names.update(_TRACKER)
    if isinstance(spec, TrainSpec) and spec.tracking:
        names.update(*(_WANDB for other in spec.tracking.others if other.kind == "wandb" and other.remote))
    passed = {name: value for name, value in source.items() if name in names or name.startswith(prefixes)}
    if devices:
        passed["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    elif not (isinstance(spec, TrainSpec) and spec.processes > 1):
        # A single process that sees several GPUs would split its batch over them behind our back (nn.DataParallel).
        passed["CUDA_VISIBLE_DEVICES"] = passed.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return passed | _OFFLINE | {
        MARK: str(folder),
        "PYTHONPATH": str(_PACKAGE),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(spec.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HOME": str(cache / "huggingface"),
        "XDG_CACHE_HOME": str(cache),
        # A tracker that is away must not hold a training up; the payload itself tries again later.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }  # fmt: skip
