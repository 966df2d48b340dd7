"""Passes manifests between assets: small JSON documents in the store, named by partition, and by job for trained assets."""

from typing import Any

import dagster as dg

from ftplatform.core.errors import Conflict
from ftplatform.core.frozen import Frozen
from ftplatform.core.ids import LineKey
from ftplatform.core.manifests import (
    Adapter,
    Baseline,
    BaseModel,
    BaseScores,
    CuratedDataset,
    Deployment,
    EvalReport,
    RawDataset,
    RegistryEntry,
    SyntheticRows,
    TokenizedShards,
)
from ftplatform.core.plan import Plan
from ftplatform.core.search_result import SearchResult
from ftplatform.planning.calibration import Measurement
from ftplatform.resources.jobs import job_doc, job_of, latest_doc
from ftplatform.resources.platform import Platform

MANIFESTS: dict[str, type[Frozen]] = {
    "raw_dataset": RawDataset,
    "curated_dataset": CuratedDataset,
    "base_model": BaseModel,
    "base_model_scores": BaseScores,
    "training_plan": Plan,
    "baseline": Baseline,
    "plan_probe": Measurement,
    "tokenized_shards": TokenizedShards,
    "adapter": Adapter,
    "eval_report": EvalReport,
    "registry_entry": RegistryEntry,
    "deployment": Deployment,
    "synthetic_rows": SyntheticRows,
    "search": SearchResult,
}


class ManifestIOManager(dg.ConfigurableIOManager):
    platform: dg.ResourceDependency[Platform]

    def handle_output(self, context: dg.OutputContext, obj: Frozen) -> None:
        asset, partition, store = context.asset_key.path[-1], context.partition_key, self.platform.parts.store
        manifest = obj.model_dump(mode="json")
        document: dict[str, Any] = {"manifest": manifest, "run": context.run_id}
        if "|" in partition:
            job = job_of(context.step_context.instance, context.run_id, store, LineKey.parse(partition))
            document["job"] = job
            store.put_doc(job_doc(job, asset), document)
        store.put_doc(latest_doc(asset, partition), document)

    def load_input(self, context: dg.InputContext) -> Frozen:
        asset, partition, store = context.asset_key.path[-1], context.asset_partition_key, self.platform.parts.store
        if "|" in partition:
            step, line = context.step_context, LineKey.parse(partition)
            job = job_of(step.instance, step.run_id, store, line)
            row = self.platform.parts.catalog.jobs.get(job)
            if f"{row['dataset']}|{row['recipe']}" != str(line):
                raise Conflict(f"job {job} is of {row['dataset']}|{row['recipe']}, not of {line}", retry_helps=False)
            name = job_doc(job, asset)
        else:
            name = latest_doc(asset, partition)
        return MANIFESTS[asset].model_validate(store.get_doc(name)["manifest"])
