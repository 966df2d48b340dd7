"""ftplatform: self-hosted, multi-tenant fine-tuning of open LLMs as Dagster software-defined assets."""

__version__ = "0.1.0"
