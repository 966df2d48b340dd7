"""The documentation says what the code does: every field, variable, code, path and command in it is compared with the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from ftplatform.cli import app
from ftplatform.core.dataset_config import DatasetConfig, Format, parse_dataset_config
from ftplatform.core.recipe import Recipe, parse_recipe
from ftplatform.core.rows import Row, rows_from_jsonl
from ftplatform.data.importing.ingest import ingest
from ftplatform.data.pii.scrubber import ENTITIES
from ftplatform.data.report.problems import TEXTS
from ftplatform.data.report.report import RowReport
from ftplatform.evaluation.gate import compare, sentence
from ftplatform.evaluation.margins import DEFAULT_MARGIN
from ftplatform.recipes import shipped

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for path in [PROJECT / "README.md", *PROJECT.glob("docs/**/*.md")] if path.is_file())
TOP_LEVEL = ("ftplatform", "tests", "docs", "deploy", "bench", ".ci")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def text(page: str) -> str:
    return (PROJECT / "docs" / page).read_text(encoding="utf-8")


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> default (None for a required field) of every field, nested ones too."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        found[prefix + name] = None if field.is_required() else field.default
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= fields(kind, f"{prefix}{name}.")
    return found


def rows(page: str) -> dict[str, list[str]]:
    """First cell, without backticks -> the other cells, of every table of the page."""
    table: dict[str, list[str]] = {}
    for line in text(page).splitlines():
        if line.startswith("| `"):
            first, *rest = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for name in re.findall(r"`([^`]+)`", first):
                table.setdefault(name, rest)
    return table


@pytest.mark.parametrize(("page", "model"), [("datasets.md", DatasetConfig), ("recipes.md", Recipe)])
def test_every_field_stands_in_its_table_with_its_default(page: str, model: type[BaseModel]) -> None:
    table = rows(page)
    known = fields(model)
    assert [name for name in known if name not in table] == []
    wrong = {}
    for name, default in known.items():
        said = table[name][0]
        if isinstance(default, bool):
            right = said == f"`{str(default).lower()}`"
        elif isinstance(default, int | float):
            right = re.fullmatch(r"`[0-9.]+`", said) is not None and float(said.strip("`")) == default
        elif isinstance(default, str) and default:
            right = said == f"`{default}`"
        else:
            right = not re.fullmatch(r"`[0-9.a-z-]+`", said)
        if not right:
            wrong[name] = (said, default)
    assert wrong == {}


@pytest.mark.parametrize(("page", "model"), [("datasets.md", DatasetConfig), ("recipes.md", Recipe)])
def test_no_table_names_a_field_that_is_gone(page: str, model: type[BaseModel]) -> None:
    known = fields(model)
    groups = {name.split(".")[0] for name in known if "." in name}
    dotted = [name for name in rows(page) if "." in name and name.split(".")[0] in groups]
    assert dotted
    assert [name for name in dotted if name not in known] == []


def test_every_variable_of_the_settings_stands_in_the_table_and_no_other() -> None:
    read = set(re.findall(r"FTPLATFORM_[A-Z0-9_]+", (PROJECT / "ftplatform" / "settings.py").read_text()))
    assert "FTPLATFORM_HOME" in read
    assert {name for name in rows("configuration.md") if name.startswith("FTPLATFORM_")} == read


def test_every_code_of_the_row_report_has_a_meaning() -> None:
    table = rows("datasets.md")
    assert [code for code in TEXTS if code not in table] == []
    levels = ("row", "row or file", "file", "file, or warning", "warning")
    coded = {name for name, cells in table.items() if cells[0] in levels}
    assert coded == set(TEXTS)
    for code, texts in TEXTS.items():
        level, _, accepted, fix, example = table[code]
        assert (accepted.replace("\\|", "|"), fix.replace("\\|", "|")) == texts, code
        assert example, code
        assert level in levels


def test_every_personal_data_entity_is_named() -> None:
    assert [entity for entity in ENTITIES if f"`{entity}`" not in text("datasets.md")] == []


def missing_paths(page: Path) -> list[str]:
    """Repository paths in backticks that are not there; a placeholder or a pattern must match something."""
    found = []
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.fullmatch(r"[A-Za-z0-9_.{},*/-]+", span) or span.split("/")[0] not in TOP_LEVEL or "/" not in span:
            continue
        found += [name for name in _expand(span) if not any(PROJECT.glob(name.rstrip("/")))]
    return found


def _expand(span: str) -> list[str]:
    """``a/{b,c}`` -> ``a/b``, ``a/c``."""
    match = re.search(r"\{([^}]*)\}", span)
    if match is None:
        return [span]
    before, after = span[: match.start()], span[match.end() :]
    return [name for part in match[1].split(",") for name in _expand(before + part + after)]


def missing_links(page: Path) -> list[str]:
    """Relative links and pictures that lead nowhere."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", FENCE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in targets if "://" not in target and not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert missing_paths(page) == []
    assert missing_links(page) == []


def commands(page: Path) -> list[str]:
    """Every ``ft ...`` in backticks or at the start of a line of a shell block."""
    source = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", source, re.DOTALL | re.MULTILINE))
    lines = blocks.replace("\\\n", " ").splitlines()
    shell = [re.sub(r"^(\$ )?(\S*bin/)?", "", line.strip()) for line in lines]
    inner = re.findall(r"\$\((ft [^)]*)\)", source)
    inline = re.findall(r"`(ft(?: [^`\n]*)?)`", FENCE.sub("", source))
    return [line for line in [*shell, *inner, *inline] if re.match(r"ft( |$)", line)]


def trouble(command: str) -> str:
    """What of a command line the CLI does not know; empty when all is known."""
    words = shlex.split(command, comments=True)[1:]
    node: Any = typer.main.get_command(app)
    while words and hasattr(node, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        # `ft dataset push|list|report` names several at once.
        for part in name.split("|"):
            if part not in node.commands:
                return f"{command}: no command {part!r}"
        node = node.commands[name.split("|")[0]]
    known = {option for parameter in node.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{command}: no option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_ft_command_of_a_page_exists(page: Path) -> None:
    assert [found for command in commands(page) if (found := trouble(command))] == []


def test_the_command_check_sees_commands_and_tells_wrong_ones() -> None:
    assert len(commands(PROJECT / "docs" / "datasets.md")) >= 4
    assert trouble("ft dataset pusch x") == "ft dataset pusch x: no command 'pusch'"
    assert trouble("ft dataset push x --fast") == "ft dataset push x --fast: no option --fast"
    assert trouble("ft dataset push|list|report") == ""


def test_the_examples_of_the_formats_are_read_as_what_they_are_said_to_be(tmp_path: Path) -> None:
    page = text("datasets.md")
    names = "|".join(get_args(Format))

    def read(name: str, example: str, settings: dict[str, Any]) -> tuple[RowReport, list[Row]]:
        (tmp_path / name).write_text(example)
        found = ingest([(name, tmp_path / name)], parse_dataset_config({**settings, "min_rows": 1}), tmp_path / "out")
        return found.report, rows_from_jsonl(found.canonical.read_bytes())

    for example in re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        said = re.findall(rf"^`({names})`", page[: page.index(example)], re.MULTILINE)[-1]
        report, rows = read("one.jsonl", example, {})
        assert (report.format, len(rows), report.findings) == (said, len(example.splitlines()), ())
    ((table, settings),) = re.findall(r"^```csv\n(.*?)^```\n+```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    _, rows = read("one.csv", table, yaml.safe_load(settings))
    assert [(row.messages[0].content, row.tags) for row in rows] == [("Where is my order?", {"channel": "mail"})]


def test_the_recipe_of_the_page_is_a_recipe() -> None:
    example, *parts = re.findall(r"^```yaml\n(.*?)^```", text("recipes.md"), re.DOTALL | re.MULTILINE)
    assert str(parse_recipe(yaml.safe_load(example)).key) == "support-lora@1"
    for part in parts:
        parse_recipe(yaml.safe_load(example) | yaml.safe_load(part))


def test_every_shipped_recipe_is_named() -> None:
    assert [name for name in shipped() if f"`{name}`" not in text("recipes.md")] == []


def test_the_path_check_tells_a_missing_path_and_a_dead_link(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`ftplatform/settings.py` `docs/{none,recipes}.md` `tests/*.py` `ftplatform/nowhere/` [x](gone.md) [y](page.md)"
    )
    assert missing_paths(page) == ["docs/none.md", "ftplatform/nowhere/"]
    assert missing_links(page) == ["gone.md"]


def test_the_worked_example_of_the_gate_is_what_the_gate_finds() -> None:
    lines = [line.strip("| ").split(" | ") for line in text("evaluation.md").splitlines() if "points |" in line]
    table = {cells[0].split("`")[1]: cells[1:] for cells in lines}
    assert set(table) == {"instruction", "capability", "safety", "heldout"}
    for name, (lost, gained, difference, bounds, outcome) in table.items():
        n, b, c = 60 if name == "heldout" else 550, int(lost), int(gained)
        reference = {f"{i}": int(i < b) for i in range(n)}
        candidate = {f"{i}": int(b <= i < b + c) for i in range(n)}
        found = compare(name, "base", DEFAULT_MARGIN, reference, candidate)
        assert difference == f"{100 * found.difference:+.1f} points"
        assert bounds == f"{100 * found.lower:+.1f} to {100 * found.upper:+.1f}"
        assert outcome.startswith(f"`{found.outcome}`")
        if found.outcome == "insufficient":
            assert outcome.partition(": ")[2].removesuffix(" show it") in sentence(found)
