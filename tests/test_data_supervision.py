"""The proof of what a row teaches: it names every row that does not, and shows what is learned as people can read it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from ftplatform.cli import app
from ftplatform.cli import dataset_show as command
from ftplatform.core.manifests import BaseModel, CuratedDataset
from ftplatform.core.rows import Message, Row, rows_to_jsonl
from ftplatform.data.rendering.families import family
from ftplatform.data.rendering.learned import learned_page
from ftplatform.data.rendering.render import ChatTemplate
from ftplatform.data.rendering.supervision import codes_of, supervision_findings, worst_first, worth_a_look
from ftplatform.data.rendering.template_check import check_template
from ftplatform.data.tokens.checks import check_rows
from ftplatform.data.tokens.figures import measure
from ftplatform.data.tokens.fitted import Fitted, fit
from ftplatform.data.tokens.shards import Layout
from ftplatform.data.tokens.tokenize import TokenBlock, tokenize_rows

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


def fitted(*sequences: tuple[list[int], list[int], int], limit: int = 8, layout: Layout = "sft") -> Fitted:
    """Of (ids, flags of what is learned, answers); 9 is the stop token."""
    block = TokenBlock(
        np.concatenate([ids for ids, _, _ in sequences]).astype(np.int32),
        np.concatenate([flags for _, flags, _ in sequences]).astype(np.bool_),
        np.array([len(ids) for ids, _, _ in sequences], dtype=np.int64),
        np.array([turns for _, _, turns in sequences], dtype=np.int32),
        (b"",) * len(sequences),
    )
    return fit(measure(block, {9}), np.arange(len(sequences)), layout, limit)


def named(places: Sequence[int]) -> dict[int, str]:
    return {place: f"a.jsonl:{place}" for place in places}


GOOD = ([5, 6, 7, 9], [0, 0, 1, 1], 1)
BARE = ([1, 2, 3], [0, 0, 0], 0)
ENDLESS = ([5, 6, 9, 5, 6, 7, 5], [0, 1, 1, 0, 1, 1, 0], 2)
CUT = ([5, 6, 7, 7, 7, 7, 7, 7], [0, 0, 1, 1, 1, 1, 1, 1], 1)
LONG = ([5] * 8 + [9], [0] * 8 + [1], 1)


@pytest.mark.parametrize(
    ("ids", "labels", "turns", "code"),
    [
        ([5, 6, 7, 9], [0, 0, 1, 1], 1, ""),
        ([5, 6, 7, 9], [0, 0, 0, 0], 0, "zero_supervised_tokens"),
        ([5, 6, 7, 9], [1, 0, 0, 0], 1, "zero_supervised_tokens"),  # nothing comes before the first token
        ([5, 6, 7, 9], [0, 0, 1, 0], 1, "stop_token_untrained"),
        ([5, 6, 9, 5, 6, 7, 5], [0, 1, 1, 0, 1, 1, 0], 2, "stop_token_untrained"),
        ([5, 9, 9, 5, 6, 7, 5], [0, 1, 1, 0, 1, 1, 0], 2, "stop_token_untrained"),  # two stops, one answer without
        ([5, 6, 9, 6, 9], [0, 1, 1, 1, 1], 2, ""),  # two answers that touch
        ([5, 6, 9, 8], [0, 1, 1, 1], 1, ""),  # a line break after the stop token is learned too
        (
            [5, 6, 9, 9, 7, 7],
            [0, 1, 1, 1, 1, 1],
            2,
            "stop_token_untrained",
        ),  # two that touch, the second without its own
        ([5, 6, 7, 7, 7, 7, 7, 7], [0, 0, 1, 1, 1, 1, 1, 1], 1, "answer_cut_by_limit"),
        ([5, 6, 7, 7, 7, 7, 7, 9], [0, 0, 1, 1, 1, 1, 1, 1], 1, ""),
    ],
)
def test_a_row_is_proved_on_its_ids(ids: list[int], labels: list[int], turns: int, code: str) -> None:
    rows = fitted((ids, labels, turns))
    assert codes_of(rows, np.arange(1)) == [code]
    # Neighbours change nothing, whatever stands at the borders.
    among = fitted(([9, 9], [1, 1], 1), (ids, labels, turns), ([9, 9], [1, 1], 1), (ids, labels, turns))
    assert codes_of(among, np.arange(4)) == ["", code, "", code]


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=9), max_size=6))
def test_figures_are_those_of_every_sequence_counted_by_hand(sequences: list[list[tuple[bool, bool]]]) -> None:
    """Answers apart from each other, as (learned, stop) per token."""
    ids = [9 if stop else 5 for one in sequences for _, stop in one]
    flags = [learned for one in sequences for learned, _ in one]
    answers = [[list(g) for learned, g in groupby(one, key=lambda t: t[0]) if learned] for one in sequences]
    block = TokenBlock(
        np.array(ids, dtype=np.int32),
        np.array(flags, dtype=np.bool_),
        np.array([len(one) for one in sequences], dtype=np.int64),
        np.array([len(one) for one in answers], dtype=np.int32),
        (b"",) * len(sequences),
    )
    found = measure(block, {9, 11})
    assert found.supervised.tolist() == [sum(learned for learned, _ in one[1:]) for one in sequences]
    stopped = [[any(stop for _, stop in answer) for answer in one] for one in answers]
    assert found.stopped.tolist() == [sum(one) for one in stopped]
    assert found.unended.tolist() == [
        bool(one and one[-1][0] and not stops[-1]) for one, stops in zip(sequences, stopped, strict=True)
    ]


def test_findings_name_file_line_and_code() -> None:
    rows = fitted(GOOD, BARE, ENDLESS, CUT, LONG)
    found = supervision_findings(rows, "refuse", named, 20)
    assert [(f.file, f.line, f.code, f.severity) for f in found] == [
        ("a.jsonl", 1, "zero_supervised_tokens", "error"),
        ("a.jsonl", 2, "stop_token_untrained", "error"),
        ("a.jsonl", 3, "answer_cut_by_limit", "error"),
        ("a.jsonl", 4, "too_long", "error"),
    ]
    assert supervision_findings(rows, "drop", named, 20)[-1].severity == "warning"
    assert [f.line for f in supervision_findings(rows, "drop", named, 2)] == [1, 2]
    assert all(f.accepted and f.fix and f.found for f in found)


def test_the_share_is_counted_and_a_cut_answer_blocks_whatever_the_policy() -> None:
    checks = {check.name: check for check in check_rows(fitted(CUT, GOOD), "drop", named)}
    assert checks["rows_supervised"].numbers["supervised_share"] == 8 / 12
    assert checks["truncation"].blocks
    assert checks["truncation"].numbers["cut"] == 1
    assert [row["source"] for row in checks["truncation"].rows] == ["a.jsonl:0"]
    assert not [c for c in check_rows(fitted(GOOD, LONG), "drop", named) if c.blocks]


def test_two_stops_in_one_answer_do_not_stand_for_the_next_one() -> None:
    rows = fitted(([5, 9, 9, 5, 6, 7, 5], [0, 1, 1, 0, 1, 1, 0], 2))
    assert [check.name for check in check_rows(rows, "drop", named) if check.blocks] == ["stop_token_trained"]


def test_prompts_have_nothing_to_learn_and_documents_may_fill_the_limit() -> None:
    assert all(check.passed for check in check_rows(fitted(BARE, layout="prompts"), "refuse", named))
    assert "teaches" not in "".join(worth_a_look(fitted(BARE, BARE, layout="prompts")).values())
    document = fitted(([5] * 20 + [9], [1] * 21, 1), layout="text")
    assert all(check.passed for check in check_rows(document, "refuse", named))


def test_broken_rows_come_first_and_then_those_that_teach_least() -> None:
    little = ([5, 5, 5, 5, 5, 9], [0, 0, 0, 0, 0, 1], 1)
    assert worst_first(fitted(GOOD, little, BARE, ENDLESS)).tolist() == [2, 3, 1, 0]


def test_every_kind_of_bad_row_is_shown_once_with_its_reason_and_typical_ones_beside_it() -> None:
    little = ([5, 5, 5, 5, 5, 9], [0, 0, 0, 0, 0, 1], 1)
    found = worth_a_look(fitted(*[GOOD] * 9, little, BARE, ENDLESS, LONG, *[GOOD] * 9))
    assert found[10] == "nothing is learned"
    assert found[11] == "1 of 2 answers without a trained stop token"
    assert found[9] == "least is learned: 17%"
    assert sum(why.startswith("nearest to the limit: ") for why in found.values()) == 2
    assert 1 <= sum(why.startswith("typical: 4 tokens, 50%") for why in found.values()) <= 2
    assert len(found) <= 10
    assert worth_a_look(fitted(LONG)) == {}
    repeated = fit(fitted(GOOD, BARE).figures, np.array([0, 1, 1, 1, 0, 1]), "sft", 8)
    assert list(worth_a_look(repeated)) == [1, 0]


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
