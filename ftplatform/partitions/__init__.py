"""The partition sets: two dynamic dimensions, their product, and the base models."""

import warnings

import dagster as dg

# Checks per partition are in preview and the mapping of one dimension of a product is in beta. Both carry the design (another
# tenant's pass must not hide a failure), are pinned and tested; a warning at every load of every step would teach nobody anything.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warnings.filterwarnings("ignore", category=dg.BetaWarning)

datasets = dg.DynamicPartitionsDefinition(name="dataset")
recipes = dg.DynamicPartitionsDefinition(name="recipe")
lines = dg.MultiPartitionsDefinition({"dataset": datasets, "recipe": recipes})
bases = dg.DynamicPartitionsDefinition(name="base")
