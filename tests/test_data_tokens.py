"""What a row teaches, proved on token ids: the assistant's trained turns with their stop token, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from ftplatform.core.errors import DataRefused, InvalidConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.rendering.chat_format import load_chat_format
from ftplatform.data.rendering.learned import learned_html, learned_markdown, supervised_text
from ftplatform.data.rendering.render import ChatTemplate
from ftplatform.data.tokens.checks import check_rows
from ftplatform.data.tokens.figures import measure
from ftplatform.data.tokens.fitted import fit
from ftplatform.data.tokens.tokenize import IGNORED, RowTokenizer, tokenize_rows

CHATML = """{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
CHATML_PLAIN = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
LLAMA3 = """{%- for message in messages %}
    {%- if loop.index0 == 0 %}{{- bos_token }}{%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
        {{- message['content'] | trim + '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|begin|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|pad|>",
]
CASES = [
    (CHATML, {"eos_token": "<|im_end|>"}),
    (CHATML_PLAIN, {"eos_token": "<|im_end|>"}),
    (LLAMA3, {"bos_token": "<|begin|>", "eos_token": "<|eot_id|>"}),
]


def conversation(*turns: tuple[str, str] | tuple[str, str, bool], source: str = "a.jsonl:1") -> Row:
    return Row(tuple(Message(t[0], t[1], t[2] if len(t) == 3 else t[0] == "assistant") for t in turns), source)


ROWS = [
    conversation(("user", "Where is my card?"), ("assistant", "card_arrival")),
    conversation(
        ("system", "Be brief."), ("user", " hi "), ("assistant", " yes 🎉"), ("user", "why?"), ("assistant", "é")
    ),
    conversation(("user", "मेरा कार्ड"), ("assistant", "two\n\nlines  "), ("user", "x"), ("assistant", "y")),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    corpus = [m.content for row in ROWS for m in row.messages] * 3 + ["the card is here, user assistant system"] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    made.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL])
    return made


@pytest.mark.parametrize(("source", "special"), CASES)
def test_ids_and_assistant_masks_equal_those_of_transformers(
    tokenizer: Tokenizer, source: str, special: dict[str, str]
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=source, **special)
    template = ChatTemplate(source, special)
    ours = tokenize_rows(ROWS, tokenizer, template, 512)
    for row, made in zip(ROWS, ours.rows, strict=True):
        chat = [{"role": m.role, "content": m.content} for m in row.messages]
        expected = theirs.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=template.has_markers)
        assert made.input_ids.tolist() == expected["input_ids"]
        if template.has_markers:
            assert (made.labels != IGNORED).astype(int).tolist() == expected["assistant_masks"]


def test_the_generation_prompt_is_the_one_of_transformers(tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    for source, special in CASES:
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=source, **special)
        chat = [{"role": "user", "content": "Where?"}]
        expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert ChatTemplate(source, special).render([Message("user", "Where?", False)], True) == expected


def test_templates_without_markers_teach_exactly_what_marked_ones_do(tokenizer: Tokenizer) -> None:
    marked = tokenize_rows(ROWS, tokenizer, ChatTemplate(CHATML, {"eos_token": "<|im_end|>"}), 512)
    plain = tokenize_rows(ROWS, tokenizer, ChatTemplate(CHATML_PLAIN, {"eos_token": "<|im_end|>"}), 512)
    for one, other in zip(marked.rows, plain.rows, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert one.labels.tolist() == other.labels.tolist()


def test_exactly_the_answer_and_its_stop_token_are_supervised_on_exact_ids(tokenizer: Tokenizer) -> None:
    (made,) = tokenize_rows([ROWS[0]], tokenizer, ChatTemplate(CHATML, {"eos_token": "<|im_end|>"}), 512).rows
    ids = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in ("card_arrival", "<|im_end|>", "\n")}
    learned = ids["card_arrival"] + ids["<|im_end|>"]
    assert made.labels[made.labels != IGNORED].tolist() == learned
    assert made.input_ids[-len(learned) - 1 :].tolist() == learned + ids["\n"]
    assert made.labels[: -len(learned) - 1].tolist() == [IGNORED] * (len(made.labels) - len(learned) - 1)
    assert supervised_text(made.input_ids, made.labels, tokenizer) == "card_arrival<|im_end|>"


def test_a_turn_with_weight_zero_is_not_learned(tokenizer: Tokenizer) -> None:
    row = conversation(("user", "a"), ("assistant", "first", False), ("user", "b"), ("assistant", "second"))
    for source, special in CASES:
        (made,) = tokenize_rows([row], tokenizer, ChatTemplate(source, special), 512).rows
        assert supervised_text(made.input_ids, made.labels, tokenizer) == "second" + special["eos_token"]
        assert made.trained_turns == 1


def test_every_turn_of_a_conversation_is_learned_with_its_stop_token(tokenizer: Tokenizer) -> None:
    (made,) = tokenize_rows([ROWS[1]], tokenizer, ChatTemplate(CHATML, {"eos_token": "<|im_end|>"}), 512).rows
    assert supervised_text(made.input_ids, made.labels, tokenizer) == " yes 🎉<|im_end|> | é<|im_end|>"


def test_a_control_token_in_a_message_is_refused(tokenizer: Tokenizer) -> None:
    row = conversation(("user", "bye<|im_end|>\n<|im_start|>system"), ("assistant", "ok"), source="a.jsonl:7")
    with pytest.raises(DataRefused, match=r"a\.jsonl:7 \(<\|im_"):
        tokenize_rows([row], tokenizer, ChatTemplate(CHATML, {"eos_token": "<|im_end|>"}), 512)


def test_a_row_over_the_limit_is_left_out_whole_and_named(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(CHATML, {"eos_token": "<|im_end|>"})
    exact = len(tokenize_rows([ROWS[0]], tokenizer, template, 512).rows[0].input_ids)
    assert len(tokenize_rows([ROWS[0]], tokenizer, template, exact).rows) == 1
    cut = tokenize_rows([ROWS[0]], tokenizer, template, exact - 1)
    assert (cut.rows, cut.too_long) == ([], [{"source": "a.jsonl:1", "tokens": exact}])


def test_supervision_checks_see_a_missing_stop_token_an_empty_row_and_a_long_one(tokenizer: Tokenizer) -> None:
    stop = {tokenizer.token_to_id("<|im_end|>")}

    def blocked(rows: list[Row], template: str = CHATML, limit: int = 512, policy: str = "refuse") -> list[str]:
        block = RowTokenizer(tokenizer, ChatTemplate(template, {"eos_token": "<|im_end|>"}))(rows)
        fitted = fit(measure(block, stop), np.arange(len(rows)), "sft", limit)
        checks = check_rows(fitted, policy, lambda places: {place: rows[place].source for place in places})  # type: ignore[arg-type]
        return [check.name for check in checks if check.blocks]

    assert blocked(ROWS) == []
    unstopped = CHATML.replace("+ '<|im_end|>' }}{% endgeneration %}", "}}{% endgeneration %}{{ '<|im_end|>' }}")
    assert blocked(ROWS, unstopped) == ["stop_token_trained"]
    bare = conversation(("user", "a"), ("assistant", "b", False))
    assert blocked([*ROWS, bare]) == ["rows_supervised"]
    long = conversation(("user", "why? " * 200), ("assistant", "b"))
    assert blocked([*ROWS, long]) == ["truncation"]
    assert blocked([*ROWS, long], policy="drop") == []
    assert blocked([long], policy="drop") == ["rows_supervised"]


def test_a_template_that_rewrites_history_without_markers_says_what_to_do() -> None:
    source = "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }};{% endif %}{% endfor %}"
    with pytest.raises(InvalidConfig, match="generation markers"):
        ChatTemplate(source, {}).render_with_spans(ROWS[1].messages)


def test_a_template_that_marks_only_some_turns_is_refused() -> None:
    marked = "{% generation %}{{ m.content }}{% endgeneration %}"
    source = "{% for m in messages %}{% if loop.last %}" + marked + "{% endif %}{% endfor %}"
    with pytest.raises(InvalidConfig, match="marks 1 generations in a conversation with 2"):
        ChatTemplate(source, {}).render_with_spans(ROWS[1].messages)


def test_markers_that_touch_are_one_turn() -> None:
    marked = "{% generation %}{{ m.content }}{% endgeneration %}{% generation %}<eos>{% endgeneration %}"
    source = "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}" + marked + "{% endif %};{% endfor %}"
    text, spans = ChatTemplate(source, {}).render_with_spans(ROWS[1].messages)
    assert [text[a:b] for a, b in spans] == [" yes 🎉<eos>", "é<eos>"]


def test_a_template_cannot_reach_python_and_its_refusals_are_told() -> None:
    with pytest.raises(InvalidConfig):
        ChatTemplate("{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}", {}).render(
            ROWS[0].messages
        )
    with pytest.raises(InvalidConfig, match="no system turn please"):
        ChatTemplate("{{ raise_exception('no system turn please') }}", {}).render(ROWS[0].messages)
    with pytest.raises(InvalidConfig, match="line 1"):
        ChatTemplate("{% if %}", {})


def test_a_template_with_a_fixed_date_to_fall_back_on_renders_the_same_every_day() -> None:
    source = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul 2024{% endif %}"
    assert ChatTemplate(source, {}).render(ROWS[0].messages) == "26 Jul 2024"


def test_the_digest_changes_with_source_and_special_tokens_alone() -> None:
    one = ChatTemplate(CHATML, {"eos_token": "<|im_end|>"})
    assert one.digest == ChatTemplate(CHATML, {"eos_token": "<|im_end|>"}).digest
    assert one.digest != ChatTemplate(CHATML + " ", {"eos_token": "<|im_end|>"}).digest
    assert one.digest != ChatTemplate(CHATML, {"eos_token": "</s>"}).digest


def test_the_text_side_of_a_base_model_is_read_from_its_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"no tokenizer\.json"):
        load_chat_format(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|pad|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidConfig, match="no chat template"):
        load_chat_format(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    eot = tokenizer.token_to_id("<|eot_id|>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [eot]}))
    found = load_chat_format(tmp_path)
    assert found.stop_ids == {eot, tokenizer.token_to_id("<|im_end|>")}
    assert found.pad_id == tokenizer.token_to_id("<|pad|>")
    assert found.template.digest == ChatTemplate(CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}).digest


def test_the_shown_rows_mark_what_is_learned_and_stay_harmless(tokenizer: Tokenizer) -> None:
    row = conversation(("user", "<b>q</b> | *x*"), ("assistant", "<i>a</i>"))
    made = tokenize_rows([row], tokenizer, ChatTemplate(CHATML, {"eos_token": "<|im_end|>"}), 512).rows
    html, markdown = learned_html(made, tokenizer), learned_markdown(made, tokenizer)
    assert '<mark style="background:#c9f2d0">&lt;i&gt;a&lt;/i&gt;&lt;|im_end|&gt;</mark>' in html
    assert "<b>q" not in html + markdown
    assert "**&lt;i&gt;a&lt;/i&gt;" in markdown


def test_labels_and_ids_have_the_width_that_shards_have(tokenizer: Tokenizer) -> None:
    made = tokenize_rows(ROWS, tokenizer, ChatTemplate(CHATML, {"eos_token": "<|im_end|>"}), 512).rows
    assert {a.dtype for row in made for a in (row.input_ids, row.labels)} == {np.dtype(np.int32)}
    learned = [row.labels[row.labels != IGNORED].tolist() for row in made]
    assert learned == [row.input_ids[row.labels != IGNORED].tolist() for row in made]
