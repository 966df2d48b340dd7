from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ftplatform.core.errors import InvalidConfig, NotFound
from ftplatform.planning.hardware import DEFAULT_FILE, load_hardware


def edited(tmp_path: Path, edit) -> Path:
    value = yaml.safe_load(DEFAULT_FILE.read_text())
    edit(value)
    path = tmp_path / "hardware.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def test_the_packages_catalogue_has_every_card_the_design_names():
    names = set(load_hardware().hardware)
    assert names >= {"cpu", "l4", "a10", "rtx3090", "rtx4090", "a100-40", "a100-80", "h100-80", "h200-141", "b200-180"}
    assert any(name.startswith("mig-1g") for name in names)


def test_only_the_cpu_entry_asks_for_no_device_and_slices_ask_for_their_own():
    catalogue = load_hardware()
    assert [name for name, entry in catalogue.hardware.items() if not entry.is_gpu] == ["cpu"]
    assert catalogue.get("mig-1g-10").kubernetes.resource == "nvidia.com/mig-1g.10gb"
    assert catalogue.get("h100-80").kubernetes.resource == "nvidia.com/gpu"


def test_two_kinds_of_hardware_never_select_the_same_nodes_by_the_same_resource():
    entries = [e.kubernetes for e in load_hardware().hardware.values() if e.kubernetes.resource]
    wanted = [(e.resource, tuple(sorted(e.node_selector.items()))) for e in entries]
    assert len(set(wanted)) == len(wanted)


def test_spot_is_cheaper_and_the_price_counts_every_device():
    catalogue = load_hardware()
    for name, entry in catalogue.hardware.items():
        assert entry.price.spot, name
        assert entry.price.spot < entry.price.on_demand, name
    h100 = catalogue.get("h100-80")
    assert h100.hourly(gpus=4, spot=False) == pytest.approx(4 * h100.price.on_demand)
    assert h100.hourly(gpus=4, spot=True) == pytest.approx(4 * h100.price.spot)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(NotFound, match=r"'h100'.*l4, a10.*h100-80"):
        load_hardware().get("h100")


def test_every_wrong_field_of_a_catalogue_is_reported_at_once(tmp_path):
    def edit(value):
        value["currency"] = "dollars"
        value["hardware"]["l4"]["memory_gb"] = -1
        value["hardware"]["a10"]["colour"] = "green"
        value["hardware"]["a10"]["kubernetes"]["tolerations"] = [{"key": "k", "operator": "Equal"}]

    with pytest.raises(InvalidConfig) as refused:
        load_hardware(edited(tmp_path, edit))
    message = str(refused.value)
    for part in ("currency", "hardware.l4.memory_gb", "hardware.a10.colour", "tolerations.0", "found -1"):
        assert part in message


def test_a_catalogue_without_cpu_is_refused_because_a_laptop_falls_back_to_it(tmp_path):
    with pytest.raises(InvalidConfig, match="'cpu' is missing"):
        load_hardware(edited(tmp_path, lambda value: value["hardware"].pop("cpu")))


def test_hardware_without_a_spot_price_is_not_sold_as_spot(tmp_path):
    catalogue = load_hardware(edited(tmp_path, lambda value: value["hardware"]["l4"]["price"].pop("spot")))
    assert catalogue.get("l4").hourly(gpus=1, spot=False) > 0
    with pytest.raises(NotFound, match="no spot price"):
        catalogue.get("l4").hourly(gpus=1, spot=True)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [", b"", b"- 1"])
def test_a_file_that_is_no_catalogue_is_refused_by_name(content, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"mine\.yaml"):
        load_hardware(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InvalidConfig, match=r"nowhere\.yaml"):
        load_hardware(tmp_path / "nowhere.yaml")
