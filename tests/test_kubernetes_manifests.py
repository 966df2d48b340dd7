"""What is in deploy/: every object against its schema, and the pieces against each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from dagster._core.workspace.load import location_origins_from_yaml_paths

from ftplatform.core.plan import Placement
from ftplatform.launchers.placement import PLATFORM_QUEUE, pod_config, queue_of
from ftplatform.planning.hardware import load_hardware
from ftplatform.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CRDS = ROOT.parent / "shared" / "crds"
MANIFESTS = sorted((DEPLOY / "k8s").glob("*.yaml"))
QUEUES = sorted((DEPLOY / "volcano").glob("*.yaml"))
VERSIONS = ("1.29", "1.32", "1.37")


def objects(*files: Path) -> list[dict[str, Any]]:
    return [value for file in files for value in yaml.safe_load_all(file.read_text()) if value]


def crd_schema(name: str) -> dict[str, Any]:
    path = CRDS / name
    if not path.is_file():
        pytest.skip(f"{name} of Volcano is not on this machine")
    [version] = [v for v in yaml.safe_load(path.read_text())["spec"]["versions"] if v["served"]]
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as strict field validation does."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and schema.get("properties") and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_valid_for_kubernetes(path, version):
    found = objects(path)
    assert found
    for value in found:
        kubernetes_validate.validate(value, version, strict=True)


@pytest.mark.parametrize("path", QUEUES, ids=lambda path: path.name)
def test_every_queue_is_valid_for_volcano(path):
    schema = crd_schema("scheduling.volcano.sh_queues.yaml")
    for value in objects(path):
        jsonschema.validate(value, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**value, "spec": {**value["spec"], "wieght": 1}}, schema)


def test_the_pod_group_volcano_makes_of_a_pod_is_valid():
    schema = crd_schema("scheduling.volcano.sh_podgroups.yaml")
    catalogue = load_hardware()
    placement = Placement(gpu="l4", gpus=2, spot=True, priority="low", shared_memory_gb=8, image=None)
    config = pod_config(placement, catalogue.get("l4"), catalogue.kubernetes, tenant="acme", image=None)
    spec = {
        "minMember": 1,
        "queue": config["pod_template_spec_metadata"]["annotations"]["scheduling.volcano.sh/queue-name"],
        "priorityClassName": config["pod_spec_config"]["priority_class_name"],
        "minResources": config["container_config"]["resources"]["requests"],
    }
    jsonschema.validate(spec, schema["properties"]["spec"])


def test_queues_and_priority_classes_that_pods_name_exist():
    queues = {value["metadata"]["name"] for value in objects(*QUEUES)}
    assert {PLATFORM_QUEUE, queue_of("acme")} == queues
    classes = {v["metadata"]["name"]: v for v in objects(*MANIFESTS) if v["kind"] == "PriorityClass"}
    named = load_hardware().kubernetes.priority_classes
    assert set(classes) == {named.low, named.normal, named.high}
    assert classes[named.low]["value"] < classes[named.normal]["value"] < classes[named.high]["value"]


def test_a_tenant_cannot_be_named_into_volcanos_or_the_platforms_queue():
    for slug in ("root", "default", "platform"):
        assert queue_of(slug) not in {"root", "default", PLATFORM_QUEUE}


def test_no_secret_value_is_in_a_manifest():
    for value in objects(*MANIFESTS):
        assert value["kind"] != "Secret"
        if value["kind"] == "ConfigMap":
            telling = ("PASSWORD", "SECRET", "KEY", "TOKEN", "_URL")
            assert not [key for key in value["data"] if any(word in key for word in telling)]


def test_only_pods_that_start_runs_get_a_cluster_token():
    deployments = [value for value in objects(*MANIFESTS) if value["kind"] == "Deployment"]
    pods = {value["metadata"]["name"]: value["spec"]["template"]["spec"] for value in deployments}
    with_token = {name for name, pod in pods.items() if pod.get("automountServiceAccountToken") is not False}
    assert with_token == {"ftplatform-webserver", "ftplatform-daemon"}
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in pods.values())


def test_everything_a_pod_refers_to_is_made_here_or_documented():
    made = {(value["kind"], value["metadata"]["name"]) for value in objects(*MANIFESTS)}
    made |= {("ConfigMap", entry["name"]) for entry in objects(DEPLOY / "kustomization.yaml")[0]["configMapGenerator"]}
    instance = objects(DEPLOY / "instance" / "dagster.yaml")[0]["run_launcher"]["config"]
    assert ("ServiceAccount", instance["service_account_name"]) in made
    assert {("ConfigMap", name) for name in [instance["instance_config_map"], *instance["env_config_maps"]]} <= made
    assert ("PersistentVolumeClaim", instance["volumes"][0]["persistentVolumeClaim"]["claimName"]) in made
    [server] = objects(DEPLOY / "instance" / "workspace.yaml")[0]["load_from"]
    assert ("Service", server["grpc_server"]["host"]) in made
    documented = (ROOT / "docs" / "kubernetes.md").read_text()
    for key in ("DAGSTER_PG_URL", "FTPLATFORM_CATALOG", "MLFLOW_BACKEND_STORE_URI", "AWS_SECRET_ACCESS_KEY"):
        assert f"--from-literal={key}=" in documented


@pytest.fixture
def cluster_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables of the ConfigMap and the Secret, and the token that a pod finds."""
    [config] = [value for value in objects(DEPLOY / "k8s" / "config.yaml") if value["kind"] == "ConfigMap"]
    for name, value in config["data"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_PG_URL", "postgresql+psycopg2://dagster:none@postgres.invalid:5432/dagster")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)


def instance_ref(tmp_path: Path) -> InstanceRef:
    shutil.copy(DEPLOY / "instance" / "dagster.yaml", tmp_path / "dagster.yaml")
    return InstanceRef.from_dir(str(tmp_path))


def test_the_clusters_instance_configuration_is_accepted_by_dagster(cluster_environment, tmp_path):
    from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
    from dagster_k8s import K8sRunLauncher

    ref = instance_ref(tmp_path)
    assert "postgres" in str(ref.storage_data.module_name)
    launcher = ref.run_launcher
    assert isinstance(launcher, K8sRunLauncher)
    assert launcher.job_namespace == "ftplatform"
    assert launcher.env_secrets == ["ftplatform-secrets"]
    assert isinstance(ref.compute_log_manager, S3ComputeLogManager)
    assert ref.settings["run_retries"]["retry_on_asset_or_op_failure"] is False
    assert ref.settings["concurrency"]["pools"] == {"granularity": "run", "default_limit": 8}


def test_the_clusters_instance_runs_against_a_real_postgres(cluster_environment, monkeypatch, tmp_path):
    pgserver = pytest.importorskip("pgserver")
    server = pgserver.get_server(str(tmp_path / "pg"))
    try:
        monkeypatch.setenv("DAGSTER_PG_URL", server.get_uri().replace("postgresql://", "postgresql+psycopg2://"))
        with DagsterInstance.from_ref(instance_ref(tmp_path)) as instance:
            instance.add_dynamic_partitions("dataset", ["acme/support"])
            assert instance.get_dynamic_partitions("dataset") == ["acme/support"]
            assert instance.run_retries_enabled
            assert instance.run_retries_max_retries == 2
    finally:
        server.cleanup()


def test_the_workspace_points_at_one_code_server():
    origins = location_origins_from_yaml_paths([str(DEPLOY / "instance" / "workspace.yaml")])
    assert [(o.location_name, o.host, o.port) for o in origins] == [("ftplatform", "ftplatform-code", 4000)]


def test_kustomize_renders_valid_objects_and_tells_pods_their_images():
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, so kustomize cannot render deploy/")
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOY)], capture_output=True, text=True, timeout=60, check=True)
    rendered = list(yaml.safe_load_all(done.stdout))
    for value in rendered:
        kubernetes_validate.validate(value, VERSIONS[-1], strict=True)
    maps = {value["metadata"]["name"]: value["data"] for value in rendered if value["kind"] == "ConfigMap"}
    assert yaml.safe_load(maps["dagster-instance"]["dagster.yaml"])["run_launcher"]["class"] == "K8sRunLauncher"
    images = objects(DEPLOY / "kustomization.yaml")[0]["images"]
    full = {entry["name"]: f"{entry['newName']}:{entry['newTag']}" for entry in images}
    assert maps["ftplatform-env"]["DAGSTER_CURRENT_IMAGE"] == full["ftplatform-control"]
    assert maps["ftplatform-env"]["FTPLATFORM_GPU_IMAGE"] == full["ftplatform-gpu"]


def test_the_control_planes_image_installs_no_torch_and_both_obey_the_lock():
    control = (DEPLOY / "docker" / "control-plane.Dockerfile").read_text()
    gpu = (DEPLOY / "docker" / "gpu.Dockerfile").read_text()
    assert '-c requirements.lock ".[k8s,aws]"' in control
    assert '-c requirements.lock ".[k8s,aws,train,serve,gpu]"' in gpu


def test_the_overlay_of_the_documentation_renders_and_gives_pods_its_images(tmp_path):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, so kustomize cannot render the overlay")
    [overlay] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.DOTALL)
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(overlay.replace("REGISTRY", "registry.local"))
    command = ["kubectl", "kustomize", str(tmp_path / "mine")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    rendered = {(value["kind"], value["metadata"]["name"]): value for value in yaml.safe_load_all(done.stdout)}
    environment = rendered["ConfigMap", "ftplatform-env"]["data"]
    assert environment["FTPLATFORM_GPU_IMAGE"] == "registry.local/ftplatform-gpu:1"
    assert environment["FTPLATFORM_STORE"] == "s3://my-bucket/store"
    [serving] = rendered["Deployment", "ftplatform-serving"]["spec"]["template"]["spec"]["containers"]
    assert serving["image"] == "registry.local/ftplatform-gpu:1"


def test_the_platform_accepts_the_environment_of_the_cluster():
    [config] = [value for value in objects(DEPLOY / "k8s" / "config.yaml") if value["kind"] == "ConfigMap"]
    settings = load_settings(config["data"])
    assert settings.executor == "k8s"
    assert settings.store.url == config["data"]["FTPLATFORM_STORE"]
    assert settings.gpu_image == config["data"]["FTPLATFORM_GPU_IMAGE"]
    assert load_hardware(settings.hardware).get(settings.default_gpu).is_gpu
    # A variable that nobody reads is a setting somebody believes in.
    readers = (ROOT / "ftplatform" / "settings.py").read_text() + (DEPLOY / "instance" / "dagster.yaml").read_text()
    assert not [name for name in config["data"] if name.startswith("FTPLATFORM_") and name not in readers]
