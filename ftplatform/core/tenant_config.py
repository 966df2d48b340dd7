"""``<tenant>.yaml``: what holds for every dataset of a tenant, written by whoever runs the platform.

``defaults`` fill what a dataset.yaml leaves out; ``required`` wins over it. Both hold dataset.yaml's own fields, so a
tenant's personal-data policy, word lists or expectations are said once, in the words customers know.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError, field_validator

from ftplatform.core.dataset_config import DatasetConfig, parse_dataset_config, problems
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.frozen import Frozen


class TenantConfig(Frozen):
    defaults: dict[str, Any] = {}
    required: dict[str, Any] = {}
    expectations: tuple[dict[str, Any], ...] = ()
    """Great Expectations that hold beside the dataset's own."""

    @field_validator("defaults", "required")
    @classmethod
    def _fields_exist(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            DatasetConfig.model_validate(value)
        except ValidationError as error:
            raise ValueError(f"not fields of dataset.yaml:\n{problems(error)}") from error
        return value


def parse_tenant_config(value: object, where: str) -> TenantConfig:
    """Raises InvalidConfig, listing every wrong field at once."""
    try:
        return TenantConfig.model_validate(value or {})
    except ValidationError as error:
        raise InvalidConfig(f"{where} cannot be used:\n{problems(error)}") from error


def with_tenant(value: object, tenant: TenantConfig) -> DatasetConfig:
    """The dataset's settings (parsed YAML, None without a file) under its tenant's.

    Raises:
        InvalidConfig: the dataset's own settings cannot be used, listing every wrong field.
    """
    own = parse_dataset_config(value)  # its mistakes are reported as its own, before anything is merged
    given = value if isinstance(value, dict) else {}
    merged = parse_dataset_config(_merged(_merged(tenant.defaults, given), tenant.required))
    return merged.model_copy(update={"expectations": (*tenant.expectations, *own.expectations)})


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both, ``over`` where they meet; objects are merged field by field, lists are replaced."""
    result = dict(under)
    for name, value in over.items():
        below = result.get(name)
        result[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
