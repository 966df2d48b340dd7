"""What the pod of a GPU asset is given: from a placement and the hardware catalogue to Kubernetes configuration.

Everything here is a plain function of values; ``launchers/kubernetes.py`` puts it into the pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ftplatform.core.errors import NotFound, PlanRefused
from ftplatform.core.ids import LineKey
from ftplatform.core.plan import Placement
from ftplatform.planning.hardware import Cluster, Hardware, HardwareCatalogue, Toleration

PLACED_ASSETS = frozenset(
    {"adapter", "eval_report", "base_model", "base_model_scores", "baseline", "plan_probe", "search"}
)
"""Assets that start a payload, and so are placed; every other step runs on the control plane's ordinary nodes."""
LOST_STEPS, LOST_WAIT = 20, 10
"""So often a step whose pod was taken away is started in another, after so many seconds. What a step itself reports as
wrong is never repeated by it."""
VOLCANO = "volcano"
SHM = "ft-shm"
PLATFORM_QUEUE = "platform"
"""Queue of work that belongs to no tenant: base models. Tenants' queues have a prefix, so none can be named so."""


class PlacementSource(Protocol):
    """Where a placement comes from: the run's stored plan, else the recipe's hardware."""

    def placement(self, step_asset: str, partition_key: str | None, run_tags: Mapping[str, str]) -> Placement | None:
        """Placement of ``step_asset`` in this partition and run (tag ``ft/job``); None when nothing says one.

        Raises:
            FtError: the recipe or plan is missing or wrong; the step then fails for good, with the message.
        """
        ...


def queue_of(tenant: str | None) -> str:
    """Volcano queue of a tenant; queues are cluster-wide, and ``root`` and ``default`` are Volcano's: hence the prefix."""
    return PLATFORM_QUEUE if tenant is None else f"tenant-{tenant}"


def pod_config(
    placement: Placement, hardware: Hardware, cluster: Cluster, *, tenant: str | None, image: str | None
) -> dict[str, Any]:
    """Dagster's Kubernetes configuration of a pod: container, pod spec, and the pod template's metadata.

    Args:
        hardware: the catalogue entry ``placement.gpu`` names.
        tenant: owner of the work, None for the platform's own.
        image: used when the placement names none; None leaves the run's image.

    Raises:
        PlanRefused: more devices than a pod can have, or spot where none is sold.
    """
    share = hardware.kubernetes
    if placement.gpus > share.max_per_pod:
        raise PlanRefused(
            f"placement asks for {placement.gpus} x {placement.gpu}: a pod of this hardware has at most "
            f"{share.max_per_pod}, and a job over several nodes is not supported: lower `gpus` or choose a larger one"
        )
    if placement.spot and hardware.price.spot is None:
        raise PlanRefused(f"placement asks for {placement.gpu} as spot, but the catalogue has no spot price for it")
    container: dict[str, Any] = {
        "resources": _resources(placement, hardware),
        "volume_mounts": [{"name": SHM, "mount_path": "/dev/shm"}],
    }
    if not hardware.is_gpu:
        # CUDA images ask for every device, and NVIDIA's runtime grants that to a pod that requested none.
        container["env"] = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    if chosen_image := placement.image or image:
        container["image"] = chosen_image
    spot = cluster.spot if placement.spot else None
    tolerations = share.tolerations + (spot.tolerations if spot else ())
    return {
        "container_config": container,
        "pod_spec_config": {
            "node_selector": {**share.node_selector, **(spot.node_selector if spot else {})},
            "tolerations": [_toleration(t) for t in tolerations],
            "volumes": [
                {"name": SHM, "empty_dir": {"medium": "Memory", "size_limit": _size(placement.shared_memory_gb)}}
            ],
            "priority_class_name": getattr(cluster.priority_classes, placement.priority),
            "scheduler_name": cluster.scheduler,
            "termination_grace_period_seconds": cluster.grace_seconds,
            # Rows, templates and weights of a customer are read here; nothing in this pod talks to the cluster.
            "automount_service_account_token": False,
        },
        "pod_template_spec_metadata": {
            "labels": {
                "ftplatform/hardware": placement.gpu,
                "ftplatform/capacity": "spot" if placement.spot else "on-demand",
                **({"ftplatform/tenant": tenant} if tenant else {}),
            },
            "annotations": {**cluster.pod_annotations, **_volcano(placement, cluster, tenant)},
        },
    }


def _resources(placement: Placement, hardware: Hardware) -> dict[str, dict[str, str]]:
    """Requests equal limits: the pod is then the last one a node under pressure evicts, and limits of control-plane
    pods, which Dagster merges underneath, cannot stay behind below the request."""
    share = hardware.kubernetes
    # A memory-backed volume counts against the container's memory limit.
    memory = share.memory_gb * placement.gpus + placement.shared_memory_gb
    host = {"cpu": f"{round(share.cpu * placement.gpus * 1000)}m", "memory": _size(memory)}
    device = {share.resource: str(placement.gpus)} if share.resource else {}
    return {"requests": {**host, **device}, "limits": {**host, **device}}


def _volcano(placement: Placement, cluster: Cluster, tenant: str | None) -> dict[str, str]:
    """Volcano's pod-group controller copies both, and the priority class, to the PodGroup it makes for the pod."""
    if cluster.scheduler != VOLCANO:
        return {}
    preemptable = placement.spot or placement.priority == "low"
    return {
        "scheduling.volcano.sh/queue-name": queue_of(tenant),
        "volcano.sh/preemptable": str(preemptable).lower(),
    }


def _size(gigabytes: float) -> str:
    return f"{round(gigabytes * 1000)}M"


def _toleration(toleration: Toleration) -> dict[str, str]:
    return toleration.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True)
class Placer:
    """Joins the source of placements with the catalogue; ``image`` has the ``train`` extra."""

    source: PlacementSource
    catalogue: HardwareCatalogue
    image: str | None

    def config_for(self, asset: str, partition_key: str | None, run_tags: Mapping[str, str]) -> dict[str, Any]:
        """Configuration of the pod of ``asset``; empty for a step of the control plane.

        Raises:
            NotFound: a GPU asset without a placement, or hardware that is not in the catalogue.
            PlanRefused: see ``pod_config``.
            InvalidKey: a partition key of the wrong form.
        """
        if asset not in PLACED_ASSETS:
            return {}
        placement = self.source.placement(asset, partition_key, run_tags)
        if placement is None:
            raise NotFound(
                f"asset {asset} of partition {partition_key!r} has neither a stored plan nor a recipe that says where "
                "it runs: materialize training_plan first, or register the recipe"
            )
        tenant = LineKey.parse(partition_key).dataset.tenant if partition_key and "|" in partition_key else None
        hardware = self.catalogue.get(placement.gpu)
        return pod_config(placement, hardware, self.catalogue.kubernetes, tenant=tenant, image=self.image)
