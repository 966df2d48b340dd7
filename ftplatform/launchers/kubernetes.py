"""Dagster's Kubernetes executor, with each GPU asset's pod placed by its partition's plan.

Tags on an op are static, so they cannot know the partition; run tags are not handed to step pods, and would have to be
set by every door a run can come through. The step handler is the one place they all pass.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import dagster as dg
from dagster import DagsterEvent, multiple_process_executor_requirements
from dagster._core.definitions.executor_definition import ExecutorDefinition
from dagster._core.execution.context.system import IStepContext
from dagster._core.execution.plan.objects import StepFailureData, StepRetryData
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.executor.base import Executor
from dagster._core.executor.init import InitExecutorContext
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepDelegatingExecutor, StepHandlerContext
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster_k8s import k8s_job_executor
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.executor import K8sStepHandler
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from dagster_shared.error import SerializableErrorInfo

from ftplatform.core.errors import FtError, InvalidKey
from ftplatform.launchers.placement import LOST_STEPS, LOST_WAIT, Placer


def partition_of(run: DagsterRun) -> str | None:
    """The one partition of a run; None for a run without partitions.

    Raises:
        InvalidKey: the run covers several partitions. A step has one pod and a pod one placement, so running them would
            put some partition on hardware its plan does not say; Dagster's own default, a backfill with a run per
            partition, is not affected.
    """
    if key := run.tags.get(PARTITION_NAME_TAG):
        return key
    first, last = run.tags.get(ASSET_PARTITION_RANGE_START_TAG), run.tags.get(ASSET_PARTITION_RANGE_END_TAG)
    if first is not None and first == last:
        return first
    if first is not None or last is not None or run.partitions_subset is not None:
        raise InvalidKey(
            f"run {run.run_id} covers a range of partitions ({first!r} to {last!r}), and a pod has the hardware of "
            "one: launch a backfill with one run per partition"
        )
    return None


class PlacementStepHandler(K8sStepHandler):
    """Dagster's step handler; ``base`` is one that Dagster built from the executor's configuration.

    Taking over its state, instead of repeating its construction, keeps every option of ``k8s_job_executor`` working.
    """

    def __init__(self, base: K8sStepHandler, placer: Placer) -> None:
        self.__dict__.update(base.__dict__)
        self._placer = placer
        self._placed: dict[str, K8sContainerContext] = {}
        self.lost: set[str] = set()

    @property
    def name(self) -> str:
        return "PlacementStepHandler"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        """Look up the placement, then create the Job.

        A mistake of a customer (unknown recipe, too many GPUs) fails the step. Raising it would end the run as a crash
        of the executor, which the daemon starts again. Any other exception is left to do exactly that.
        """
        step_key = self._get_step_key(step_handler_context)
        step_context = step_handler_context.get_step_context(step_key)
        run = step_handler_context.dagster_run
        try:
            config = self._placer.config_for(step_context.step.op_name, partition_of(run), run.tags)
        except FtError:
            error = serializable_error_info_from_exc_info(sys.exc_info())
            yield DagsterEvent.step_failure_event(
                step_context,
                StepFailureData(error=error, user_failure_data=None),
                message=f'Step "{step_key}" cannot be placed: {error.message.strip()}',
            )
            return
        self._placed[step_key] = K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(config))
        yield from super().launch_step(step_handler_context)

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Dagster's own look at the Job; of a failed one also why its containers ended, which says it when memory did."""
        health: CheckStepHealthResult = super().check_step_health(step_handler_context)
        if health.is_healthy:
            return health
        self.lost.add(self._get_step_key(step_handler_context))
        namespace = self._get_container_context(step_handler_context).namespace
        name = self._get_k8s_step_job_name(step_handler_context)
        causes = _causes(self._api_client.get_pods_in_job(name, namespace))
        return CheckStepHealthResult.unhealthy(" ".join([health.unhealthy_reason or "", *causes]))

    def _get_container_context(self, step_handler_context: StepHandlerContext) -> K8sContainerContext:
        """Merged last, so that a plan's hardware wins. Health checks and termination pass here too and need only the
        namespace: they never look a placement up, so a store that is away cannot keep a GPU pod alive."""
        context = super()._get_container_context(step_handler_context)
        placed = self._placed.get(self._get_step_key(step_handler_context))
        return context.merge(placed) if placed else context


class SurvivingExecutor(StepDelegatingExecutor):
    """Dagster's executor, ``base``, for which a pod that ended without a word is not the end of its step.

    Dagster would retry it by the op's retry policy only, and that repeats every exception of the step as well.
    """

    def __init__(self, base: StepDelegatingExecutor, handler: PlacementStepHandler) -> None:
        self.__dict__.update(base.__dict__)
        self._step_handler = self._surviving = handler

    def log_failure_or_retry_event_after_error(
        self, step_context: IStepContext, err_info: SerializableErrorInfo, known_state: KnownExecutionState
    ) -> DagsterEvent:
        key = step_context.step.key
        lost, times = key in self._surviving.lost, known_state.get_retry_state().get_attempt_count(key)
        self._surviving.lost.discard(key)
        if lost and times < LOST_STEPS and not step_context.retry_mode.disabled:
            return DagsterEvent.step_retry_event(step_context, StepRetryData(error=err_info, seconds_to_wait=LOST_WAIT))
        event: DagsterEvent = super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)
        return event


def _causes(pods: Iterable[Any]) -> list[str]:
    """Why containers of ``pods`` (kubernetes V1Pod) were ended, in sentences; empty where none says more than an exit code."""
    found = []
    for pod in pods:
        for container in pod.status.container_statuses or ():
            ended = container.state.terminated or (container.last_state and container.last_state.terminated)
            if ended and ended.reason not in (None, "Completed", "Error"):
                found.append(f"Pod {pod.metadata.name} ended with {ended.reason} (exit code {ended.exit_code}).")
                if ended.reason == "OOMKilled":
                    found.append(
                        "Its memory limit was reached: the next attempt resumes from the newest committed checkpoint."
                    )
        if pod.status.reason:
            found.append(f"Pod {pod.metadata.name}: {pod.status.reason} ({pod.status.message or 'no message'}).")
    return found


def ft_k8s_executor(placer: Placer) -> ExecutorDefinition:
    """``k8s_job_executor`` with placement, surviving lost pods: same name, same configuration."""

    @dg.executor(
        name="k8s",
        config_schema=k8s_job_executor.config_schema,
        requirements=multiple_process_executor_requirements(),
    )
    def placed_k8s(init_context: InitExecutorContext) -> Executor:
        create: Any = k8s_job_executor.executor_creation_fn
        executor = create(init_context)
        return SurvivingExecutor(executor, PlacementStepHandler(executor._step_handler, placer))

    return placed_k8s
