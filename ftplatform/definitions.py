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
        dg.define_asset_job("data_job", selection=assets.DATA, partitions_def=datasets),
        dg.define_asset_job("base_job", selection=assets.BASE, partitions_def=bases),
        dg.define_asset_job("training_job", selection=assets.LINE, partitions_def=lines),
    ],
    sensors=sensors.ALL,
    resources={"platform": platform, "io_manager": ManifestIOManager(platform=platform)},
    loggers={"console": console},
    executor=executor_for(platform.parts.settings, platform.parts),
)
