"""Runs come in by every door, are executed, and the Jobs that reach the cluster's API are looked at.

Real: Dagster's instance, GraphQL, sensor and schedule daemons, K8sRunLauncher, executor and step handler. Not real: the
API server, which remembers what it is given, and the kubelet, which runs a pod's own command in this process.
"""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster._cli.asset import asset_materialize_command
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.test_utils import instance_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs
from dagster_k8s.client import DagsterKubernetesClient
from kubernetes_cluster import Cluster, container_of, launch_from_ui, partition_tags

DEFINITIONS = Path(__file__).with_name("kubernetes_definitions.py")
LINE = "acme/support"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kubernetes")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    kubeconfig = folder / "kubeconfig"
    recorder = Cluster(kubeconfig)
    here = {"name": "here"}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{**here, "cluster": {"server": "http://127.0.0.1:9"}}],
                "contexts": [{**here, "context": {"cluster": "here", "user": "here", "namespace": "ftplatform"}}],
                "users": [{**here, "user": {"token": "none"}}],
            }
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS", "0.02")
        client = DagsterKubernetesClient(recorder, recorder, logging.info, time.sleep, time.time)
        patch.setattr(DagsterKubernetesClient, "production_client", staticmethod(lambda **overrides: client))
        yield recorder


@pytest.fixture(scope="module")
def workspace(cluster: Cluster, folder: Path) -> Iterator[WorkspaceProcessContext]:
    launcher = {
        "module": "dagster_k8s",
        "class": "K8sRunLauncher",
        "config": {
            "load_incluster_config": False,
            "kubeconfig_file": str(cluster.kubeconfig),
            "job_namespace": "ftplatform",
            "service_account_name": "ftplatform",
            "instance_config_map": "dagster-instance",
            "dagster_home": "/opt/dagster/dagster_home",
            "job_image": "registry.local/ftplatform-control:1",
            "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "1Gi"}},
        },
    }
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(executable_path=sys.executable, python_file=str(DEFINITIONS)),
        container_image="registry.local/ftplatform-control:1",
        location_name="ftplatform",
    )
    # Without a queue in between, a submitted run is launched in the same call.
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    overrides = {"run_launcher": launcher, "run_coordinator": coordinator}
    with instance_for_test(overrides=overrides, temp_dir=str(folder)) as instance:
        cluster.instance = instance
        instance.add_dynamic_partitions("dataset", ["acme/support"])
        instance.add_dynamic_partitions("recipe", ["big-full@1", "tiny-lora@1", "too-wide@1", "unplaced@1", "away@1"])
        instance.add_dynamic_partitions("base", ["starter@00000000"])
        with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget([origin])) as context:
            yield context


Door = Callable[[WorkspaceProcessContext], None]


def started_by(door: Door, workspace: WorkspaceProcessContext) -> dict[str, DagsterRun]:
    """The runs that a door started, by recipe."""
    before = {run.run_id for run in workspace.instance.get_runs()}
    door(workspace)
    new = [run for run in workspace.instance.get_runs() if run.run_id not in before]
    return {run.tags["dagster/partition/recipe"]: run for run in new}


def open_ui(workspace: WorkspaceProcessContext) -> None:
    for recipe in ("big-full@1", "tiny-lora@1"):
        launch_from_ui(workspace, ["training_plan", "adapter", "eval_report"], partition_tags(f"{LINE}|{recipe}"))


def tick_sensor(workspace: WorkspaceProcessContext) -> None:
    repository = workspace.create_request_context().code_locations[0].get_repository("__repository__")
    workspace.instance.start_sensor(repository.get_sensor("new_jobs"))
    list(execute_sensor_iteration(workspace, logging.getLogger("test"), None, None))


def tick_schedule(workspace: WorkspaceProcessContext) -> None:
    repository = workspace.create_request_context().code_locations[0].get_repository("__repository__")
    workspace.instance.start_schedule(repository.get_schedule("retrain"))
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    list(launch_scheduled_runs(workspace, logging.getLogger("test"), soon, {}))


@pytest.mark.parametrize("door", [open_ui, tick_sensor, tick_schedule])
def test_pods_of_gpu_assets_get_their_recipes_hardware_whatever_started_the_run(door, workspace, cluster):
    runs = started_by(door, workspace)
    assert set(runs) == {"big-full@1", "tiny-lora@1"}
    for run in runs.values():
        assert not [tag for tag in run.tags if tag.startswith("dagster-k8s/")]
        assert cluster.execute(run).status is dg.DagsterRunStatus.SUCCESS
    for step in ("adapter", "eval_report"):
        big, small = (cluster.pods(runs[recipe])[step] for recipe in ("big-full@1", "tiny-lora@1"))
        assert big["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
        assert big["spec"]["priorityClassName"] == "ftplatform-high"
        assert big["spec"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        # 4 devices x (12 cores, 160 GB) and 64 GB of shared memory; the launcher's own limits do not shine through.
        device = {"cpu": "48000m", "memory": "704000M", "nvidia.com/gpu": "4"}
        assert big["spec"]["containers"][0]["resources"] == {"requests": device, "limits": device}
        assert big["spec"]["containers"][0]["image"] == "registry.local/ftplatform-gpu:1"
        assert {"name": "ft-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64000M"}} in big["spec"]["volumes"]
        assert {"name": "ft-shm", "mountPath": "/dev/shm"} in big["spec"]["containers"][0]["volumeMounts"]

        assert small["spec"]["nodeSelector"] == {"nvidia.com/mig.strategy": "mixed"}
        assert small["spec"]["priorityClassName"] == "ftplatform-low"
        assert "cloud.google.com/gke-spot" in [t["key"] for t in small["spec"]["tolerations"]]
        assert small["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "1"
        assert "nvidia.com/gpu" not in small["spec"]["containers"][0]["resources"]["limits"]
        assert small["spec"]["containers"][0]["image"] == "registry.local/own:7"

        for pod, preemptable in ((big, "false"), (small, "true")):
            assert pod["spec"]["schedulerName"] == "volcano"
            assert pod["spec"]["automountServiceAccountToken"] is False
            assert pod["metadata"]["annotations"]["scheduling.volcano.sh/queue-name"] == "tenant-acme"
            assert pod["metadata"]["annotations"]["volcano.sh/preemptable"] == preemptable
            assert pod["metadata"]["labels"]["ftplatform/tenant"] == "acme"
            assert pod["metadata"]["labels"]["dagster/op"] == step


def test_control_plane_steps_and_run_workers_get_no_gpu(workspace, cluster):
    line = partition_tags(f"{LINE}|big-full@1")
    trained = launch_from_ui(workspace, ["training_plan", "adapter"], line)
    ingested = launch_from_ui(workspace, ["raw_dataset"], partition_tags(LINE))
    for run in (trained, ingested):
        assert cluster.execute(run).status is dg.DagsterRunStatus.SUCCESS
    jobs = [j for j in cluster.jobs if j["metadata"]["labels"]["dagster/run-id"] in (trained.run_id, ingested.run_id)]
    plain = [j for j in jobs if j["metadata"]["labels"].get("dagster/op") != "adapter"]
    # A worker for each run, training_plan and raw_dataset.
    assert (len(jobs), len(plain)) == (5, 4)
    for job in plain:
        pod = job["spec"]["template"]["spec"]
        assert container_of(job)["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}
        assert container_of(job)["image"] == "registry.local/ftplatform-control:1"
        assert not {"nodeSelector", "tolerations", "priorityClassName", "schedulerName"} & set(pod)
        assert pod["volumes"] == []


def test_the_stored_plan_of_the_runs_job_wins_over_the_recipe(workspace, cluster):
    tags = partition_tags(f"{LINE}|tiny-lora@1") | {"ft/job": "ftjob-00000000000000aa"}
    run = launch_from_ui(workspace, ["adapter"], tags)
    cluster.execute(run)
    pod = cluster.pods(run)["adapter"]
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}


def test_materializing_on_the_command_line_places_pods_too(workspace, cluster, folder):
    arguments = ["-f", str(DEFINITIONS), "--select", "training_plan,adapter", "--partition", f"{LINE}|big-full@1"]
    before = len(cluster.jobs)
    done = CliRunner().invoke(asset_materialize_command, arguments, env={"DAGSTER_HOME": str(folder)})
    assert done.exit_code == 0, done.output
    pods = {job["metadata"]["labels"]["dagster/op"]: container_of(job) for job in cluster.jobs[before:]}
    assert pods["adapter"]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert pods["training_plan"]["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}
    assert pods["training_plan"]["image"] == "registry.local/ftplatform-control:1"


def test_a_base_model_belongs_to_no_tenant_and_sees_no_gpu_when_it_runs_on_cpu(workspace, cluster):
    run = launch_from_ui(workspace, ["base_model"], partition_tags("starter@00000000"))
    assert cluster.execute(run).status is dg.DagsterRunStatus.SUCCESS
    pod = cluster.pods(run)["base_model"]
    assert pod["metadata"]["annotations"]["scheduling.volcano.sh/queue-name"] == "platform"
    assert "ftplatform/tenant" not in pod["metadata"]["labels"]
    assert set(pod["spec"]["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in pod["spec"]["containers"][0]["env"]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [("too-wide@1", "a pod of this hardware has at most 1"), ("unplaced@1", "neither a stored plan nor a recipe")],
)
def test_a_placement_that_cannot_be_fails_its_step_with_the_reason_and_creates_no_pod(recipe, said, workspace, cluster):
    run = launch_from_ui(workspace, ["training_plan", "adapter", "eval_report"], partition_tags(f"{LINE}|{recipe}"))
    done = cluster.execute(run)
    assert done.status is dg.DagsterRunStatus.FAILURE
    assert set(cluster.pods(run)) == {"training_plan"}
    failures = workspace.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert [event.dagster_event.step_key for event in failures] == ["adapter"]
    assert said in failures[0].dagster_event.step_failure_data.error.message
    # `run_retries.retry_on_asset_or_op_failure: false` starts again only what is not a failure of a step.
    assert done.tags["dagster/failure_reason"] == "STEP_FAILURE"


def test_a_run_over_a_range_of_partitions_is_refused_where_hardware_matters(workspace, cluster):
    first, last = f"{LINE}|big-full@1", f"{LINE}|tiny-lora@1"
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    run = launch_from_ui(workspace, ["adapter"], tags)
    assert cluster.execute(run).status is dg.DagsterRunStatus.FAILURE
    failure = workspace.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)[0]
    assert "one run per partition" in failure.dagster_event.step_failure_data.error.message
    assert cluster.pods(run) == {}


def test_a_source_that_is_away_ends_the_run_so_that_it_is_started_again_and_cannot_keep_a_pod(workspace, cluster):
    run = launch_from_ui(workspace, ["adapter"], partition_tags(f"{LINE}|away@1"))
    done = cluster.execute(run)
    assert done.status is dg.DagsterRunStatus.FAILURE
    assert done.tags["dagster/failure_reason"] != "STEP_FAILURE"
    # The executor stops what it had begun; asking for the placement again would have raised again.
    assert len(cluster.deleted) == 1
