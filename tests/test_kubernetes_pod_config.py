from __future__ import annotations

import pytest

from ftplatform.core.errors import NotFound, PlanRefused
from ftplatform.core.plan import Placement
from ftplatform.launchers.placement import PLACED_ASSETS, Placer, pod_config
from ftplatform.planning.hardware import Spot, Toleration, load_hardware

CATALOGUE = load_hardware()


def placed(**changes) -> Placement:
    default = Placement(gpu="l4", gpus=1, spot=False, priority="normal", shared_memory_gb=8, image=None)
    return default.model_copy(update=changes)


def config(placement: Placement, *, cluster=CATALOGUE.kubernetes, hardware=None, tenant="acme", image="ft-gpu:1"):
    return pod_config(placement, hardware or CATALOGUE.get(placement.gpu), cluster, tenant=tenant, image=image)


def test_shared_memory_is_paid_for_in_the_memory_limit():
    one, half = config(placed(shared_memory_gb=1)), config(placed(shared_memory_gb=0.5))
    assert one["container_config"]["resources"]["limits"]["memory"] == "25000M"
    assert half["container_config"]["resources"]["limits"]["memory"] == "24500M"
    assert half["pod_spec_config"]["volumes"][0]["empty_dir"] == {"medium": "Memory", "size_limit": "500M"}


def test_spot_permits_spot_nodes_and_on_demand_does_not():
    def taints(pod):
        return {t["key"] for t in pod["pod_spec_config"]["tolerations"]}

    assert taints(config(placed(spot=True))) - taints(config(placed())) == {
        "cloud.google.com/gke-spot",
        "kubernetes.azure.com/scalesetpriority",
    }


def test_a_catalogue_can_force_spot_nodes_by_label_without_losing_the_gpus_label():
    spot = Spot(node_selector={"karpenter.sh/capacity-type": "spot"}, tolerations=(Toleration(key="spot"),))
    cluster = CATALOGUE.kubernetes.model_copy(update={"spot": spot})
    selector = config(placed(spot=True), cluster=cluster)["pod_spec_config"]["node_selector"]
    assert selector == {"nvidia.com/gpu.product": "NVIDIA-L4", "karpenter.sh/capacity-type": "spot"}
    assert "karpenter.sh/capacity-type" not in config(placed(), cluster=cluster)["pod_spec_config"]["node_selector"]


def test_hardware_not_sold_as_spot_is_refused_as_spot():
    l4 = CATALOGUE.get("l4")
    owned = l4.model_copy(update={"price": l4.price.model_copy(update={"spot": None})})
    with pytest.raises(PlanRefused, match="no spot price"):
        config(placed(spot=True), hardware=owned)


def test_without_volcano_no_queue_is_named():
    cluster = CATALOGUE.kubernetes.model_copy(update={"scheduler": "default-scheduler"})
    pod = config(placed(), cluster=cluster)
    assert pod["pod_spec_config"]["scheduler_name"] == "default-scheduler"
    assert not [name for name in pod["pod_template_spec_metadata"]["annotations"] if "volcano" in name]


@pytest.mark.parametrize(
    ("spot", "priority", "may"), [(True, "high", "true"), (False, "low", "true"), (False, "high", "false")]
)
def test_only_work_that_accepted_interruption_may_be_pushed_out(spot, priority, may):
    annotations = config(placed(spot=spot, priority=priority))["pod_template_spec_metadata"]["annotations"]
    assert annotations["volcano.sh/preemptable"] == may


def test_the_image_is_the_placements_then_the_deployments_then_the_runs():
    assert config(placed(image="own:2"))["container_config"]["image"] == "own:2"
    assert config(placed())["container_config"]["image"] == "ft-gpu:1"
    assert "image" not in config(placed(), image=None)["container_config"]


class Asked:
    def __init__(self, answer: Placement | None) -> None:
        self.answer = answer
        self.questions: list[tuple] = []

    def placement(self, step_asset, partition_key, run_tags):
        self.questions.append((step_asset, partition_key, dict(run_tags)))
        return self.answer


def test_the_source_is_asked_only_for_assets_that_start_a_payload():
    source = Asked(placed())
    placer = Placer(source, CATALOGUE, image=None)
    assert placer.config_for("raw_dataset", "acme/support", {}) == {}
    assert source.questions == []
    for asset in sorted(PLACED_ASSETS):
        assert placer.config_for(asset, "acme/support|r@1", {"ft/job": "ftjob-1"})["container_config"]["resources"]
    assert source.questions == [(asset, "acme/support|r@1", {"ft/job": "ftjob-1"}) for asset in sorted(PLACED_ASSETS)]


def test_hardware_outside_the_catalogue_is_refused_with_the_names_inside():
    with pytest.raises(NotFound, match=r"'h300' is not in the catalogue.*h200-141"):
        Placer(Asked(placed(gpu="h300")), CATALOGUE, image=None).config_for("adapter", "acme/support|r@1", {})
