"""The composition root: every definition, on one screen."""

import dagster as dg

from ftplatform import assets, sensors
from ftplatform.partitions import bases, datasets, lines
from ftplatform.resources import ManifestIOManager, Platform
from ftplatform.resources.console import console
from ftplatform.resources.executor import executor_for

platform = Platform()

defs = dg.Definitions(
    assets=assets.ALL,
    jobs=[
        assets.DATA_JOB,
        sensors.intake_job,
        dg.define_asset_job("base_job", selection=assets.BASE, partitions_def=bases),
        dg.define_asset_job("training_job", selection=assets.LINE, partitions_def=lines),
        dg.define_asset_job("search_job", selection=assets.SEARCH, partitions_def=lines),
        dg.define_asset_job("probe_job", selection=assets.PROBE, partitions_def=lines),
        dg.define_asset_job("synthetic_job", selection=assets.ON_DEMAND, partitions_def=datasets),
    ],
    sensors=sensors.ALL,
    resources={"platform": platform, "io_manager": ManifestIOManager(platform=platform)},
    loggers={"console": console},
    executor=executor_for(platform.parts.settings, platform.parts),
)
