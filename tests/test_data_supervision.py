"""The proof of what a row teaches: it names every row that does not, and shows what is learned as people can read it."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.cli import dataset_show as command
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.rows import Message, Row, rows_to_jsonl
from ftplatform.data.rendering.families import family
from ftplatform.data.rendering.learned import learned_page
from ftplatform.data.rendering.render import ChatTemplate
from ftplatform.data.rendering.supervision import check_supervision, prove, supervision_findings, worst_first
from ftplatform.data.rendering.template_check import check_template
from ftplatform.data.tokens.tokenize import IGNORED, Tokenized, TokenizedRow, tokenize_rows

SPECIAL = {"eos_token": "<|im_end|>"}
CHATML = family("chatml").source
ROWS = [
    Row((Message("user", "long question " * 5), Message("assistant", "no")), "a.jsonl:1"),
    Row((Message("user", "q"), Message("assistant", "a long answer")), "a.jsonl:2"),
    Row(
        (Message("user", "q"), Message("assistant", "x", False), Message("user", "r"), Message("assistant", "y")),
        "a.jsonl:3",
    ),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    return made


@pytest.fixture(scope="module")
def stops(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset({tokenizer.token_to_id("<|im_end|>")})


def learned(ids: list[int], labels: list[int], turns: int = 1, source: str = "a.jsonl:9") -> TokenizedRow:
    flags = np.array(labels, dtype=bool)
    array = np.array(ids, dtype=np.int32)
    return TokenizedRow(source, array, np.where(flags, array, np.int32(IGNORED)), turns)


@pytest.mark.parametrize(
    ("ids", "labels", "turns", "codes"),
    [
        ([5, 6, 7, 9], [0, 0, 1, 1], 1, ()),
        ([5, 6, 7, 9], [0, 0, 0, 0], 0, ("zero_supervised_tokens",)),
        ([5, 6, 7, 9], [1, 0, 0, 0], 1, ("zero_supervised_tokens",)),  # nothing comes before the first token
        ([5, 6, 7, 9], [0, 0, 1, 0], 1, ("stop_token_untrained",)),
        ([5, 6, 9, 5, 6, 7, 5], [0, 1, 1, 0, 1, 1, 0], 2, ("stop_token_untrained",)),
        ([5, 9, 9, 5, 6, 7, 5], [0, 1, 1, 0, 1, 1, 0], 2, ("stop_token_untrained",)),  # two stops, one answer without
        ([5, 6, 9, 6, 9], [0, 1, 1, 1, 1], 2, ()),  # two answers that touch
        ([5, 6, 9, 8], [0, 1, 1, 1], 1, ()),  # a line break after the stop token is learned too
        ([5, 6, 7, 7, 7, 7, 7, 7], [0, 0, 1, 1, 1, 1, 1, 1], 1, ("answer_cut_by_limit",)),
        ([5, 6, 7, 7, 7, 7, 7, 9], [0, 0, 1, 1, 1, 1, 1, 1], 1, ()),
    ],
)
def test_a_row_is_proved_on_its_ids(ids: list[int], labels: list[int], turns: int, codes: tuple[str, ...]) -> None:
    assert prove(learned(ids, labels, turns), {9}, max_length=8).codes == codes


def test_findings_name_file_line_and_code(tokenizer: Tokenizer, stops: frozenset[int]) -> None:
    good = tokenize_rows(ROWS, tokenizer, ChatTemplate(CHATML, SPECIAL), 90)
    assert [row["source"] for row in good.too_long] == ["a.jsonl:1"]
    bare = learned([1, 2, 3], [0, 0, 0], source="b.csv:4")
    found = supervision_findings(Tokenized([*good.rows, bare], good.too_long, 90), stops, "refuse")
    assert [(f.file, f.line, f.code, f.severity) for f in found] == [
        ("b.csv", 4, "zero_supervised_tokens", "error"),
        ("a.jsonl", 1, "too_long", "error"),
    ]
    assert supervision_findings(good, stops, "drop")[0].severity == "warning"
    assert all(f.accepted and f.fix and f.found for f in found)


def test_the_share_is_counted_and_a_cut_answer_blocks_whatever_the_policy(stops: frozenset[int]) -> None:
    cut = Tokenized([learned([1, 2, 3, 4], [0, 0, 1, 1])], [], 4)
    checks = {check.name: check for check in check_supervision(cut, stops, "drop")}
    assert checks["rows_supervised"].numbers["supervised_share"] == 0.5
    assert checks["truncation"].blocks
    assert checks["truncation"].numbers["cut"] == 1


def test_broken_rows_come_first_and_then_those_that_teach_least(tokenizer: Tokenizer, stops: frozenset[int]) -> None:
    made = tokenize_rows(ROWS, tokenizer, ChatTemplate(CHATML, SPECIAL), 512)
    bare = learned([1, 2, 3], [0, 0, 0])
    order = worst_first([*made.rows, bare], stops, 512)
    assert [row.source for row in order] == ["a.jsonl:9", "a.jsonl:1", "a.jsonl:3", "a.jsonl:2"]


def test_the_page_marks_what_is_learned_and_runs_nothing(tokenizer: Tokenizer) -> None:
    row = Row((Message("user", "<script>x</script>"), Message("assistant", "<b>")), "a.jsonl:1")
    made = tokenize_rows([row], tokenizer, ChatTemplate(CHATML, SPECIAL), 512).rows
    page = learned_page(made, tokenizer, "acme/<x>")
    assert '<mark style="background:#c9f2d0">&lt;b&gt;&lt;|im_end|&gt;</mark>' in page
    assert "<script" not in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lambda s: s, {"template_tools"}),
        (lambda s: "{% if %}", {"template_readable"}),
        (lambda s: "{{ strftime_now('%d') }}" + s, {"template_readable"}),
        (lambda s: s.replace("<|im_end|>' }}\n        {%- endgeneration %}", "' }}\n        {%- endgeneration %}"), {"template_stop", "template_tools"}),
        (lambda s: s.replace("message.content", "message.content[:5]"), {"template_content"}),
        (lambda s: s.replace("message.content", "message.content | trim"), {"template_content", "template_tools"}),
        (lambda s: s.replace("<|im_start|>", "### ").replace("<|im_end|>", "</end>"), {"template_stop", "template_breakout", "template_tools"}),
        (lambda s: "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + s, {"template_system", "template_tools"}),
        (lambda s: "{{ messages | length }}" + s, {"template_same_prompt", "template_tools"}),
        (lambda s: "{{ messages | length }}" + s.replace("{%- generation %}", "").replace("{%- endgeneration %}", ""), {"template_answers"}),
        (lambda s: "{{ tools }}" + s, set()),
    ],
)  # fmt: skip
def test_a_template_is_tried_out_and_what_is_wrong_is_named(tokenizer: Tokenizer, change, failed: set[str]) -> None:
    source = change(CHATML)
    checks = check_template(source, SPECIAL, control_tokens=("<|im_start|>", "<|im_end|>"))
    assert {check.name for check in checks if not check.passed} == failed
    assert all(check.message.endswith(".") for check in checks)


class _Parts:
    """A store with one dataset and one base model, as the command reads them."""

    def __init__(self, root) -> None:
        self.root = root
        self.store = self
        self.catalog = self.recipes = self.bases = self

    def path(self, digest: str):
        return self.root / digest

    def find_doc(self, name: str):
        return self.docs.get(name.split("/")[0] if "/" in name else name) or next(
            (doc for key, doc in self.docs.items() if key in name), None
        )

    def newest(self, slug: str):
        from ftplatform.core.ids import BaseKey

        return BaseKey(slug, "0a1b2c3d")


@pytest.fixture
def parts(tmp_path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer):
    (tmp_path / "train").write_bytes(rows_to_jsonl(ROWS))
    made = _Parts(tmp_path)
    curated = CuratedDataset.model_construct(
        dataset="acme/support", splits={"train": "train"}, rows={"train": 3}, config="c", removed={}, pii={}
    )
    base = BaseModel(
        slug="tiny",
        revision="0a1b2c3d",
        weights="w",
        replay=None,
        parameters=1,
        architecture="x",
        max_length=512,
        vocabulary=300,
    )
    made.docs = {"curated_dataset": {"manifest": curated.model_dump()}, "base_model": {"manifest": base.model_dump()}}
    monkeypatch.setattr(command, "open_parts", lambda: made)
    (tmp_path / "base").mkdir()
    tokenizer.save(str(tmp_path / "base" / "tokenizer.json"))
    (tmp_path / "base" / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    (tmp_path / "base" / "chat_template.jinja").write_text(CHATML)
    from ftplatform.data.rendering.chat_format import load_chat_format

    monkeypatch.setattr(command, "chat_format", lambda store, weights: load_chat_format(tmp_path / "base"))
    return made


def test_show_prints_sizes_and_rows(parts) -> None:
    done = CliRunner().invoke(app, ["dataset", "show", "acme/support", "--row", "3"])
    assert done.exit_code == 0, done.output
    assert "a.jsonl:3" in done.output
    assert "assistant: y" in done.output
    assert "a.jsonl:1" not in done.output


def test_show_tokens_marks_what_carries_loss_and_writes_a_page(parts, tmp_path) -> None:
    page = tmp_path / "rows.html"
    wanted = ["dataset", "show", "acme/support", "--tokens", "--base", "tiny", "--rows", "2", "--html", str(page)]
    done = CliRunner().invoke(app, wanted)
    assert done.exit_code == 0, done.output
    assert "⟦y<|im_end|>⟧" in done.output
    assert "⟦a long answer" not in done.output
    assert done.output.index("a.jsonl:1") < done.output.index("a.jsonl:3")
    assert "ok   stop_token_trained" in done.output
    assert page.read_text().count("<mark") == 2


def test_show_tokens_needs_to_know_whose(parts) -> None:
    done = CliRunner().invoke(app, ["dataset", "show", "acme/support", "--tokens"])
    assert done.exit_code != 0
