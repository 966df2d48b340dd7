"""``plan_probe``: what the plan's training needs, measured where it will run."""

from collections.abc import Iterator

import dagster as dg

from ftplatform.assets.line import line_run
from ftplatform.assets.payloads import run_payload
from ftplatform.assets.probing import probe
from ftplatform.assets.reporting import result
from ftplatform.core.plan import Plan
from ftplatform.partitions import lines
from ftplatform.planning.memory import expected_peak
from ftplatform.planning.setup import Setup
from ftplatform.resources import Platform


@dg.asset(
    partitions_def=lines, group_name="on_demand", owners=["team:post-training"], kinds={"pytorch"}, pool="training"
)
def plan_probe(context: dg.AssetExecutionContext, platform: Platform, training_plan: Plan) -> Iterator[object]:
    """A few steps at the plan's largest micro-batch: peak memory and tokens per second, which the next plans count with."""
    with line_run(context, platform) as run:
        plan = training_plan
        measured = probe(
            run.parts,
            plan,
            Setup.from_recipe(run.recipe),
            lambda spec: run_payload(context, run.parts, spec, stage="probe", job=run.job, keep_alive=run.keep_alive),
        )
        told = {
            "estimated GB": expected_peak(plan.memory_gb, 1),
            "measured GB": measured.peak_gb,
            "tokens per second and GPU": measured.tokens_per_second,
            "micro-batch": plan.micro_batch,
        }
        yield result(measured, told)
