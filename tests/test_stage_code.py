"""Which source text counts for which stage: one changed byte re-runs exactly the stages that use it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ftplatform.evaluation.score_cache import CODE
from ftplatform.store.cache import PACKAGE, cache_key, code_digest

STAGES = {
    "curate": ("data/curation/curate", "data/curation/expectations"),
    "tokenize": (
        "data/tokens/tokenize",
        "data/tokens/pack",
        "data/rendering/supervision",
        "data/replay",
        "data/rendering/chat_format",
    ),
    "train": ("training/__main__",),
    "score": CODE,
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    copy = tmp_path / "ftplatform"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.mark.parametrize(
    ("file", "affected"),
    [
        ("data/pii/rules.py", {"curate"}),
        ("data/tokens/pack.py", {"tokenize"}),
        ("data/rendering/render.py", {"tokenize", "score"}),  # held-out pairs are rendered for a reward model
        ("training/loss.py", {"train"}),
        ("evaluation/runner_model.py", {"score"}),
        ("evaluation/gate.py", set()),
        ("core/errors.py", set()),
        ("assets/adapter.py", set()),
    ],
)
def test_one_byte_of_a_file_affects_exactly_the_stages_that_use_it(
    package: Path, file: str, affected: set[str]
) -> None:
    def digests() -> dict[str, str]:
        code_digest.cache_clear()
        return {stage: code_digest(*entries, package=package) for stage, entries in STAGES.items()}

    before = digests()
    path = package / file
    path.write_bytes(path.read_bytes() + b"\n")
    after = digests()
    assert {stage for stage in STAGES if before[stage] != after[stage]} == affected
    code_digest.cache_clear()


def test_the_place_of_the_package_does_not_count(package: Path) -> None:
    assert code_digest("data/curation/curate", package=package) == code_digest("data/curation/curate")


def test_a_stage_without_source_is_an_error() -> None:
    with pytest.raises(ValueError, match="no source found"):
        code_digest("data/nowhere")


def test_every_part_of_a_key_counts() -> None:
    keys = {
        cache_key("a", code="1", inputs={"x": 1}),
        cache_key("b", code="1", inputs={"x": 1}),
        cache_key("a", code="2", inputs={"x": 1}),
        cache_key("a", code="1", inputs={"x": 2}),
    }
    assert len(keys) == 4
