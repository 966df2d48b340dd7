"""A cluster that remembers what it is given, and the launch button of the UI."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import kubernetes
import kubernetes_validate
from dagster._cli.api import _execute_run_command_body, _execute_step_command_body
from dagster._core.instance import DagsterInstance
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import deserialize_value
from dagster_graphql.client.query import LAUNCH_PIPELINE_EXECUTION_MUTATION
from dagster_graphql.test.utils import execute_dagster_graphql

KUBERNETES = "1.32"


class Cluster:
    """Batch and core API of a cluster with one memory: Jobs in the order they were created."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.jobs: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.instance: DagsterInstance | None = None
        self.losing: dict[str, int] = {}
        """Pods, by op, that vanish with their node before they say a word."""
        self.failed: set[str] = set()

    def create_namespaced_job(self, body: Any, namespace: str, _request_timeout: float | None = None) -> None:
        job = kubernetes.client.ApiClient().sanitize_for_serialization(body)
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
        self.jobs.append({**job, "namespace": namespace})
        if job["metadata"]["labels"]["app.kubernetes.io/component"] == "step_worker":
            op = job["metadata"]["labels"]["dagster/op"]
            if self.losing.get(op, 0):
                self.losing[op] -= 1
                self.failed.add(job["metadata"]["name"])
            else:
                self._run_step(container_of(job))

    def delete_namespaced_job(self, name: str, namespace: str) -> None:
        self.deleted.append(name)

    def read_namespaced_job_status(self, name: str, namespace: str) -> Any:
        failed = 1 if name in self.failed else None
        return kubernetes.client.V1Job(status=kubernetes.client.V1JobStatus(failed=failed))

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        return kubernetes.client.V1PodList(items=[])

    def _run_step(self, container: dict[str, Any]) -> None:
        assert container["args"][:3] == ["dagster", "api", "execute_step"]
        packed = next(e["value"] for e in container["env"] if e["name"] == "DAGSTER_COMPRESSED_EXECUTE_STEP_ARGS")
        args = deserialize_value(zlib.decompress(base64.b64decode(packed)).decode(), ExecuteStepArgs)
        assert self.instance is not None
        run = self.instance.get_run_by_id(args.run_id)
        assert run is not None
        list(_execute_step_command_body(args, self.instance, run))

    def execute(self, run: DagsterRun) -> DagsterRun:
        """What the run's own pod does."""
        assert self.instance is not None
        assert f"dagster-run-{run.run_id}" in [job["metadata"]["name"] for job in self.jobs]
        _execute_run_command_body(run.run_id, self.instance, lambda event: None, set_exit_code_on_failure=True)
        done = self.instance.get_run_by_id(run.run_id)
        assert done is not None
        return done

    def pods(self, run: DagsterRun) -> dict[str, dict[str, Any]]:
        """Pod template by step of a run."""
        found = {}
        for job in self.jobs:
            labels = job["metadata"]["labels"]
            if labels["dagster/run-id"] == run.run_id and "dagster/op" in labels:
                found[labels["dagster/op"]] = job["spec"]["template"]
        return found


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


def launch_from_ui(workspace: WorkspaceProcessContext, assets: list[str], tags: dict[str, str]) -> DagsterRun:
    """The mutation that the launch button sends."""
    request = workspace.create_request_context()
    variables = {
        "executionParams": {
            "selector": {
                "repositoryLocationName": "ftplatform",
                "repositoryName": "__repository__",
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": [name]} for name in assets],
                "assetCheckSelection": [],
            },
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
    }
    answer = execute_dagster_graphql(request, LAUNCH_PIPELINE_EXECUTION_MUTATION, variables).data[
        "launchPipelineExecution"
    ]
    assert answer["__typename"] == "LaunchRunSuccess", answer.get("message", answer)
    run = workspace.instance.get_run_by_id(answer["run"]["runId"])
    assert run is not None
    return run


def partition_tags(key: str) -> dict[str, str]:
    if "|" not in key:
        return {"dagster/partition": key}
    dataset, recipe = key.split("|")
    return {"dagster/partition": key, "dagster/partition/dataset": dataset, "dagster/partition/recipe": recipe}
