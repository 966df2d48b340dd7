"""The asset graph: each file reads manifests, calls one function, writes a manifest and reports numbers."""

import dagster as dg

from ftplatform.assets.adapter import adapter
from ftplatform.assets.base_model import base_model, base_model_scores
from ftplatform.assets.baseline import baseline
from ftplatform.assets.curated_dataset import curated_dataset
from ftplatform.assets.deployment import deployment
from ftplatform.assets.eval_report import eval_report
from ftplatform.assets.plan_probe import plan_probe
from ftplatform.assets.raw_dataset import raw_dataset
from ftplatform.assets.registry_entry import registry_entry
from ftplatform.assets.search import search
from ftplatform.assets.synthetic_rows import synthetic_rows
from ftplatform.assets.tokenized_shards import tokenized_shards
from ftplatform.assets.training_plan import training_plan
from ftplatform.partitions import datasets

DATA = [raw_dataset, curated_dataset]
BASE = [base_model, base_model_scores]
LINE = [training_plan, tokenized_shards, baseline, adapter, eval_report, registry_entry, deployment]
ON_DEMAND = [synthetic_rows]
SEARCH = [search]
PROBE = [plan_probe]
ALL = [*DATA, *BASE, *LINE, *ON_DEMAND, *SEARCH, *PROBE]

DATA_JOB = dg.define_asset_job("data_job", selection=DATA, partitions_def=datasets)

__all__ = ["ALL", "BASE", "DATA", "DATA_JOB", "LINE", "ON_DEMAND", "PROBE", "SEARCH"]
