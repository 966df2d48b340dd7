"""A small platform with the real asset names and partitions; Dagster loads this file by path, like a code location."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from ftplatform.core.errors import NotFound
from ftplatform.core.ids import LineKey
from ftplatform.core.plan import Placement
from ftplatform.launchers.kubernetes import ft_k8s_executor
from ftplatform.launchers.placement import Placer
from ftplatform.planning.hardware import load_hardware

BIG = Placement(gpu="h100-80", gpus=4, spot=False, priority="high", shared_memory_gb=64, image=None)
SMALL = Placement(gpu="mig-1g-10", gpus=1, spot=True, priority="low", shared_memory_gb=2, image="registry.local/own:7")
PLANNED = Placement(gpu="a100-80", gpus=2, spot=False, priority="normal", shared_memory_gb=16, image=None)
CPU = Placement(gpu="cpu", gpus=1, spot=False, priority="normal", shared_memory_gb=1, image=None)


RECIPES = {"big-full@1": BIG, "tiny-lora@1": SMALL, "too-wide@1": SMALL.model_copy(update={"gpus": 2})}
PLANS = {"ftjob-00000000000000aa": PLANNED}


class InMemoryPlacements:
    """The order of the real source: the plan of the run's job, else the hardware of the partition's recipe."""

    def placement(self, step_asset: str, partition_key: str | None, run_tags: Mapping[str, str]) -> Placement | None:
        if plan := PLANS.get(run_tags.get("ft/job", "")):
            return plan
        if partition_key is None or "|" not in partition_key:
            return CPU
        recipe = str(LineKey.parse(partition_key).recipe)
        if recipe == "unplaced@1":
            return None
        if recipe == "away@1":
            raise ConnectionError("the store is away")
        if recipe not in RECIPES:
            raise NotFound(f"recipe {recipe} is not registered")
        return RECIPES[recipe]


datasets = dg.DynamicPartitionsDefinition(name="dataset")
lines = dg.MultiPartitionsDefinition({"dataset": datasets, "recipe": dg.DynamicPartitionsDefinition(name="recipe")})
bases = dg.DynamicPartitionsDefinition(name="base")


@dg.asset(partitions_def=datasets)
def raw_dataset() -> None: ...


@dg.asset(partitions_def=lines)
def training_plan() -> None: ...


@dg.asset(partitions_def=lines, deps=[training_plan])
def adapter() -> None: ...


@dg.asset(partitions_def=lines, deps=[adapter])
def eval_report() -> None: ...


@dg.asset(partitions_def=bases)
def base_model() -> None: ...


training_job = dg.define_asset_job("training_job", selection=["training_plan", "adapter", "eval_report"])


@dg.sensor(job=training_job)
def new_jobs():
    for recipe in ("big-full@1", "tiny-lora@1"):
        yield dg.RunRequest(run_key=f"job-{recipe}", partition_key=f"acme/support|{recipe}")


@dg.schedule(job=training_job, cron_schedule="0 * * * *")
def retrain():
    for recipe in ("big-full@1", "tiny-lora@1"):
        yield dg.RunRequest(run_key=f"again-{recipe}", partition_key=f"acme/support|{recipe}")


defs = dg.Definitions(
    assets=[raw_dataset, training_plan, adapter, eval_report, base_model],
    jobs=[training_job],
    sensors=[new_jobs],
    schedules=[retrain],
    executor=ft_k8s_executor(Placer(InMemoryPlacements(), load_hardware(), image="registry.local/ftplatform-gpu:1")),
)
