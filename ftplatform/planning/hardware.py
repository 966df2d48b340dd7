"""The hardware catalogue: figures the planner computes with, and what a pod asks a cluster for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ftplatform.core.dataset_config import problems
from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.core.frozen import Frozen

DEFAULT_FILE = Path(__file__).with_name("hardware.yaml")
CPU = "cpu"
"""The entry every catalogue has: a machine without an accelerator."""


class Toleration(Frozen):
    key: str
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _value_belongs_to_equal(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("operator Equal needs a value, operator Exists has none")
        return self


class Interconnect(Frozen):
    name: Literal["none", "pcie", "nvlink"]
    gb_s: float = Field(ge=0)
    """10**9 bytes per second and device, both directions added."""


class Price(Frozen):
    """Per device and hour in the catalogue's currency."""

    on_demand: float = Field(ge=0)
    spot: float | None = Field(None, ge=0)
    """None where the device is not sold as spot."""


class PodShare(Frozen):
    """What a pod asks for per device."""

    resource: str | None
    """Extended resource, for example ``nvidia.com/gpu``; None asks for no device."""
    max_per_pod: int = Field(8, ge=1)
    """Devices of one node: a pod cannot span two."""
    cpu: float = Field(gt=0)
    """Cores per device."""
    memory_gb: float = Field(gt=0)
    """Host memory per device, 10**9 bytes, without the shared memory."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()


class Hardware(Frozen):
    """One device; the units are in the head of ``hardware.yaml``."""

    memory_gb: float = Field(gt=0)
    bf16_tflops: float = Field(gt=0)
    fp8_tflops: float | None = Field(None, gt=0)
    """None where the device has no fp8 matrix units."""
    bandwidth_gb_s: float = Field(gt=0)
    interconnect: Interconnect
    network_gb_s: float = Field(0.0, ge=0)
    """Between nodes, per node and direction; 0 where jobs of several nodes are not offered."""
    price: Price
    kubernetes: PodShare

    @property
    def is_gpu(self) -> bool:
        return self.kubernetes.resource is not None

    def hourly(self, *, gpus: int, spot: bool) -> float:
        """Price of ``gpus`` devices for an hour.

        Raises:
            NotFound: spot was asked for and the entry has no spot price.
        """
        price = self.price.spot if spot else self.price.on_demand
        if price is None:
            raise NotFound("this hardware has no spot price: add one to the catalogue or ask for on-demand")
        return gpus * price


class Spot(Frozen):
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()


class PriorityClasses(Frozen):
    """Names of PriorityClass objects, by the priority of a recipe."""

    low: str
    normal: str
    high: str


class Cluster(Frozen):
    """What holds for every placed pod."""

    scheduler: str = "volcano"
    priority_classes: PriorityClasses
    spot: Spot = Spot()
    grace_seconds: int = Field(120, ge=0)
    pod_annotations: dict[str, str] = Field(default_factory=dict)


class HardwareCatalogue(Frozen):
    currency: str = Field(pattern="^[A-Z]{3}$")
    """ISO 4217."""
    price_note: str = ""
    kubernetes: Cluster
    hardware: dict[str, Hardware]

    @field_validator("hardware")
    @classmethod
    def _has_cpu(cls, value: dict[str, Hardware]) -> dict[str, Hardware]:
        if CPU not in value:
            raise ValueError(f"the entry {CPU!r} is missing; entries are {', '.join(value) or 'none'}")
        return value

    def get(self, name: str) -> Hardware:
        """The entry ``name``.

        Raises:
            NotFound: listing the entries there are.
        """
        try:
            return self.hardware[name]
        except KeyError:
            raise NotFound(f"hardware {name!r} is not in the catalogue: it has {', '.join(self.hardware)}") from None


def load_hardware(path: Path | None = None) -> HardwareCatalogue:
    """Read a catalogue; None reads the one in the package.

    Raises:
        InvalidConfig: the file cannot be read or parsed, or has wrong fields: every one of them is listed.
    """
    file = path or DEFAULT_FILE
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
        return HardwareCatalogue.model_validate(value)
    except ValidationError as error:
        raise InvalidConfig(f"hardware catalogue {file} cannot be used:\n{problems(error)}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidConfig(f"hardware catalogue {file} cannot be read: {error}") from error
