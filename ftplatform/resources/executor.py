"""Where steps run: in the run's own process, or a pod each, placed by the plan."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.ids import LineKey
from ftplatform.core.plan import Placement, Plan
from ftplatform.planning.hardware import CPU
from ftplatform.resources.jobs import JOB_TAG, job_doc, latest_doc
from ftplatform.resources.platform import Parts
from ftplatform.settings import Settings


class PlanOrRecipe:
    """Placement of a step: its job's stored plan, else the recipe's hardware; a base model runs on the platform's own."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def placement(self, step_asset: str, partition_key: str | None, run_tags: Mapping[str, str]) -> Placement | None:
        if partition_key is None:
            return None
        if "|" not in partition_key:
            return _placement(self._parts.settings.default_gpu)
        job = run_tags.get(JOB_TAG)
        document = self._parts.store.find_doc(job_doc(job, "training_plan")) if job else None
        if job is None and step_asset == "plan_probe":
            # It measures the line's newest plan, on the hardware of that.
            document = self._parts.store.find_doc(latest_doc("training_plan", partition_key))
        if document is not None:
            return Plan.model_validate(document["manifest"]).placement
        recipe = self._parts.catalog.recipes.get(LineKey.parse(partition_key).recipe)
        wanted = recipe.hardware
        gpu = self._parts.settings.default_gpu if wanted.gpu == "auto" else wanted.gpu
        gpus = 1 if wanted.gpus == "auto" else wanted.gpus
        return _placement(gpu, gpus, wanted.spot, wanted.priority, wanted.shared_memory_gb, recipe.image)


def _placement(
    gpu: str = CPU,
    gpus: int = 1,
    spot: bool = False,
    priority: str = "normal",
    shared_memory_gb: float = 8.0,
    image: str | None = None,
) -> Placement:
    return Placement.model_validate(
        {
            "gpu": gpu,
            "gpus": gpus,
            "spot": spot,
            "priority": priority,
            "shared_memory_gb": shared_memory_gb,
            "image": image,
        }
    )


def executor_for(settings: Settings, parts: Parts) -> dg.ExecutorDefinition:
    """In-process locally (a process per step costs 2 s each and gains nothing), pods on a cluster.

    Raises:
        InvalidConfig: pods were asked for and the extra is not installed.
    """
    if settings.executor == "local":
        return dg.in_process_executor
    try:
        from ftplatform.launchers.kubernetes import ft_k8s_executor
    except ImportError as error:
        raise InvalidConfig(
            "FTPLATFORM_EXECUTOR=k8s needs the extra ftplatform[k8s] (dagster-k8s is not installed)"
        ) from error
    from ftplatform.launchers.placement import Placer

    return ft_k8s_executor(Placer(PlanOrRecipe(parts), parts.hardware, settings.gpu_image))
