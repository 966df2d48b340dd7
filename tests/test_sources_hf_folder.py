from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.core.dataset_config import parse_dataset_config
from ftplatform.core.errors import DataRefused, InvalidConfig, InvalidKey, NotFound
from ftplatform.core.ids import DatasetKey
from ftplatform.data.importing.ingest import ingest
from ftplatform.data.sources.collect import collect
from ftplatform.data.sources.hf_folder import look, side
from ftplatform.resources.platform import Parts
from ftplatform.settings import load_settings


def write(folder: Path, *names: str, text: str = "x\n") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def readme(folder: Path, front: dict[str, object]) -> Path:
    return write(folder, "README.md", text=f"---\n{yaml.safe_dump(front)}---\n# Card\n")


def test_a_saved_dict_of_splits_is_read_by_its_own_lists(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"prompt": ["a", "b"], "completion": ["c", "d"]})
    saved = datasets.DatasetDict({"train": rows, "validation": rows, "test": rows})
    saved.save_to_disk(tmp_path / "set", num_shards={"train": 2, "validation": 1, "test": 1})
    found = look(tmp_path / "set")
    assert found.splits == {
        "train-data-00000-of-00002.arrow": "train",
        "train-data-00001-of-00002.arrow": "train",
        "validation-data-00000-of-00001.arrow": "validation",
        "test-data-00000-of-00001.arrow": "test",
    }
    rows.save_to_disk(tmp_path / "one")
    assert look(tmp_path / "one").splits == {"data-00000-of-00001.arrow": "train"}


def test_a_cloned_repository_is_read_by_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        "README.md",
        "LICENSE.txt",
        ".gitattributes",
        ".git/config.json",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test-00000-of-00001.parquet",
        "dev.jsonl.gz",
        "trainer-notes.csv",
    )
    assert look(tmp_path).splits == {
        "train-00000-of-00002.parquet": "train",
        "train-00001-of-00002.parquet": "train",
        "test-00000-of-00001.parquet": "test",
        "dev.jsonl.gz": "validation",
        "trainer-notes.csv": "train",
    }


def test_the_card_says_which_file_is_which_split(tmp_path: Path) -> None:
    write(tmp_path, "a/one.jsonl", "a/two.jsonl", "b/three.jsonl", "unused.jsonl")
    data_files = [{"split": "train", "path": ["a/*.jsonl"]}, {"split": "validation_matched", "path": "b/three.jsonl"}]
    readme(tmp_path, {"configs": [{"config_name": "default", "data_files": data_files}]})
    assert look(tmp_path).splits == {"a-one.jsonl": "train", "a-two.jsonl": "train", "b-three.jsonl": "validation"}


def test_one_of_several_subsets_must_be_chosen(tmp_path: Path) -> None:
    write(tmp_path, "en/train.jsonl", "hi/train.jsonl")
    readme(tmp_path, {"configs": [{"config_name": "en", "data_files": "en/*"}, {"config_name": "hi"}]})
    with pytest.raises(InvalidConfig, match=r"subsets en, hi.*--subset"):
        look(tmp_path)
    assert list(look(tmp_path, "en").splits) == ["en-train.jsonl"]
    assert list(look(tmp_path, "hi").splits) == ["hi-train.jsonl"]
    with pytest.raises(InvalidConfig):
        look(tmp_path, "fr")


@pytest.mark.parametrize(
    ("name", "expected"), [("dev", "validation"), ("test_unseen", "test"), ("contest", "train"), ("all", "train")]
)
def test_a_splits_name_stands_for_a_side(name: str, expected: str) -> None:
    assert side(name) == expected


def test_a_pointer_of_git_lfs_is_not_taken_for_the_file(tmp_path: Path) -> None:
    write(tmp_path, "train.parquet", text="version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataRefused, match="git lfs pull"):
        look(tmp_path)


def test_a_folder_without_data_and_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="no data"):
        look(write(tmp_path / "a", "README.md", "model.bin"))
    with pytest.raises(DataRefused, match=r"both be uploaded as x-train\.csv"):
        look(write(tmp_path / "b", "x/train.csv", "x-train.csv"))


def test_a_saved_selection_without_its_rows_is_refused(tmp_path: Path) -> None:
    state = {"_data_files": [{"filename": "d.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}
    write(tmp_path, "state.json", text=json.dumps(state))
    with pytest.raises(DataRefused, match="flatten_indices"):
        look(tmp_path)


def test_the_splits_go_into_dataset_yaml_unless_it_says_otherwise(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = write(tmp_path / "set", "train.csv", "val.csv", "test.csv")
    made = collect([str(folder)], scratch)
    expected = {"validation_files": ["val.csv"], "test_files": ["test.csv"]}
    assert yaml.safe_load(made.files["dataset.yaml"].read_text()) == {"split": expected}
    assert "val.csv" in made.said[0]
    own = write(
        tmp_path / "own", "dataset.yaml", text="min_rows: 3\nsplit: {test_files: [], validation_files: [val.csv]}\n"
    )
    made = collect([str(folder), str(own / "dataset.yaml")], scratch)
    assert made.files["dataset.yaml"] == own / "dataset.yaml", "it says both: kept as it is, comments and all"
    assert made.said == []
    write(own, "dataset.yaml", text="min_rows: 3\nsplit: {test: 0.1}\n")
    made = collect([str(folder), str(own / "dataset.yaml")], scratch)
    assert yaml.safe_load(made.files["dataset.yaml"].read_text()) == {"min_rows": 3, "split": {"test": 0.1, **expected}}


def test_a_missing_path_and_two_files_of_one_name_are_said(tmp_path: Path) -> None:
    write(tmp_path, "a/rows.csv", "b/rows.csv")
    with pytest.raises(NotFound, match=r"nowhere\.csv"):
        collect([str(tmp_path / "nowhere.csv")], tmp_path)
    with pytest.raises(InvalidKey, match=r"'rows\.csv'"):
        collect([str(tmp_path / "a" / "rows.csv"), str(tmp_path / "b" / "rows.csv")], tmp_path)


@pytest.mark.parametrize("layout", ["saved", "hub"])
def test_the_files_of_a_folder_are_read_into_their_splits(tmp_path: Path, layout: str) -> None:
    datasets = pytest.importorskip("datasets")

    def rows(count: int, name: str) -> Any:
        return datasets.Dataset.from_dict(
            {"prompt": [f"{name} {i}" for i in range(count)], "completion": ["x"] * count}
        )

    made = {"train": rows(30, "train"), "validation": rows(4, "validation"), "test": rows(5, "test")}
    if layout == "saved":
        datasets.DatasetDict(made).save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set" / "data").mkdir(parents=True)
        for name, part in made.items():
            part.to_parquet(tmp_path / "set" / "data" / f"{name}-00000-of-00001.parquet")
    (tmp_path / "scratch").mkdir()
    collected = collect([str(tmp_path / "set")], tmp_path / "scratch")
    config = parse_dataset_config(yaml.safe_load(collected.files["dataset.yaml"].read_text()))
    found = ingest(list(collected.files.items()), config, tmp_path / "out")
    assert not found.report.refused, found.report.summary()
    assert found.validation is not None
    assert found.test is not None
    counts = [len(path.read_bytes().splitlines()) for path in (found.canonical, found.validation, found.test)]
    assert counts == [30, 4, 5]


def test_ft_dataset_push_takes_a_folder_and_shows_what_it_decided(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet")
    done = CliRunner().invoke(app, ["dataset", "push", "acme/support", str(folder)])
    assert done.exit_code == 0, done.output
    assert "validation-00000-of-00001.parquet" in done.output
    upload = Parts(load_settings()).catalog.datasets.get_upload(DatasetKey("acme", "support"))
    names = ["dataset.yaml", "train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"]
    assert [file["name"] for file in upload["files"]] == names
    assert list(load_settings().home.glob("push-*")) == [], "nothing is left behind"


def test_a_link_out_of_the_folder_is_refused_and_one_into_the_hubs_cache_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("key\n")
    cloned = write(tmp_path / "cloned", "train.jsonl")
    (cloned / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataRefused, match=r"notes\.txt leads to a file outside"):
        look(cloned)
    saved = write(tmp_path / "saved", "state.json", text='{"_data_files": [{"filename": "../secret.txt"}]}')
    with pytest.raises(DataRefused, match=r"secret\.txt leads to a file outside"):
        look(saved)
    write(tmp_path / "cache" / "blobs", "0123")
    snapshot = tmp_path / "cache" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").symlink_to("../../blobs/0123")
    assert [path.name for path in look(snapshot).files.values()] == ["train.jsonl"]
