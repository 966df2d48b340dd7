"""Our templates, the fast renderer and the families' own templates give the same text, byte for byte, and the same spans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message, Row, ToolCall
from ftplatform.data.rendering import compiled
from ftplatform.data.rendering.families import FAMILIES, family, recognise
from ftplatform.data.rendering.render import ChatTemplate, Rendered

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
NAMES = [one.name for one in FAMILIES]
TRL = {
    "llama-3": ["llama3"],
    "llama-3.1": ["llama3_1", "llama3_2"],
    "qwen-2.5": ["qwen2_5"],
    "qwen-3": ["qwen3"],
    "qwen-3-2507": ["qwen3_instruct_2507"],
    "gemma": ["gemma"],
    "gemma-3": ["gemma3"],
    "phi-3": ["phi3"],
    "phi-3.5": ["phi3_5"],
}
"""Families whose official template comes with TRL (chat_templates/README.md there says from which model)."""
OFFICIAL = [(name, file) for name, files in TRL.items() for file in files]
TOOL = {
    "type": "function",
    "function": {"name": "find", "description": "Finds é.", "parameters": {"type": "object", "properties": {}}},
}


def official(file: str) -> str:
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text()


def ours(name: str) -> ChatTemplate:
    one = family(name)
    return ChatTemplate(one.source, SPECIAL, (one.stop,) if one.stop else ())


nasty = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            " ",
            "\n",
            "{{ messages }}",
            "{% generation %}x{% endgeneration %}",
            "{%- raw %}",
            "}} {# #} %}",
            "<think>\na\n</think>\n\nb",
            "</think>",
            "a</think>",
            "<think></think>",
            "<tool_response>\nx\n</tool_response>",
            "<|im_end|>",
            "<|eot_id|>\n<|start_header_id|>system",
            "</s>",
            "<end_of_turn>",
            "<|end|>",
            "[/INST] no",
            "\u00a0 nbsp \u2003",
            "\u200bzero\ufeff",
            "\x1fctl\x85\u2028",
            "मेरा कार्ड 🎉",
            "e\u0301",
            '{"a": [1, "b"]}',
            "  both  \n",
            "%s {0} $x \\n",
        ]
    ),
)
plain_text = st.sampled_from(["hi", "Where is my card?", "it is here", "ok then", "a b c", "ज़रूर"])


def conversations(content: st.SearchStrategy[str], calls: bool = False) -> st.SearchStrategy[tuple[Message, ...]]:
    def build(draw_: tuple[str | None, list[tuple[str, str, bool]], bool]) -> tuple[Message, ...]:
        system, turns, tool = draw_
        made = [] if system is None else [Message("system", system)]
        for question, answer, train in turns:
            made.append(Message("user", question))
            if tool:
                call = ToolCall("abcdefgh1", "find", json.dumps({"q": question, "n": 1}))
                made.append(Message("assistant", answer, train, tool_calls=(call,)))
                made.append(Message("tool", question, name="find", tool_call_id="abcdefgh1"))
            made.append(Message("assistant", answer, train))
        return tuple(made)

    pairs = st.lists(st.tuples(content, content, st.booleans()), min_size=1, max_size=3)
    return st.tuples(st.none() | content, pairs, st.booleans() if calls else st.just(False)).map(build)


def by_jinja(template: ChatTemplate, row: Row) -> Rendered | None:
    """Row by row, without what the fast renderer learned."""
    try:
        text, spans = template.render_with_spans(row.messages, row.tools)
    except InvalidConfig:
        return None
    flags = [m.train for m in row.messages if m.role == "assistant"]
    return Rendered(text, [span for span, flag in zip(spans, flags, strict=True) if flag])


def fast(template: ChatTemplate, row: Row) -> Rendered | None:
    try:
        return template.render_rows([row])[0]
    except InvalidConfig:
        return None


@pytest.mark.parametrize(("name", "file"), OFFICIAL)
def test_a_family_is_recognised_by_what_its_official_template_does(name: str, file: str) -> None:
    found = recognise(official(file), SPECIAL)
    assert found is not None
    assert found.name == name
    assert recognise(official(file) + "{{ '!' }}", SPECIAL) is None


@pytest.mark.parametrize(("name", "file"), OFFICIAL)
@settings(max_examples=40, deadline=None)
@given(
    messages=conversations(nasty, calls=True),
    tools=st.sampled_from([(), (TOOL,), (TOOL, TOOL)]),
    ask=st.booleans(),
)
def test_our_templates_render_what_the_official_ones_render(
    name: str, file: str, messages: tuple[Message, ...], tools: tuple[dict, ...], ask: bool
) -> None:
    theirs, mine = ChatTemplate(official(file), SPECIAL), ours(name)
    given = messages[:-1] if ask else messages
    results = []
    for template in (theirs, mine):
        try:
            results.append(template.render(given, ask, tools))
        except InvalidConfig:
            results.append(None)
    assert results[0] == results[1]


LEARNED = {name: ours(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(st.lists(conversations(plain_text | nasty, calls=True), min_size=1, max_size=6))
def test_the_fast_renderer_gives_jinjas_text_and_spans(name: str, chats: list[tuple[Message, ...]]) -> None:
    template = LEARNED[name]  # kept over the examples, so that plans are learned and used
    for number, chat in enumerate(chats):
        row = Row(chat, f"a:{number}", tools=(TOOL,) if number % 2 else ())
        assert fast(template, row) == by_jinja(template, row)


@pytest.mark.parametrize("name", NAMES)
def test_plain_rows_do_not_go_through_jinja(name: str) -> None:
    template = ours(name)
    rows = [
        Row((Message("user", f"question {i}"), Message("assistant", f" answer {i}\n")), f"a:{i}") for i in range(900)
    ]
    template.render_rows(rows)
    assert template.rows_by_jinja <= compiled.PROBATION + 1
    assert template.render_rows(rows) == [by_jinja(template, row) for row in rows]


@pytest.mark.parametrize(("name", "file"), OFFICIAL)
def test_the_official_template_with_our_markers_keeps_its_digest_and_gets_our_spans(name: str, file: str) -> None:
    source = official(file)
    bare, known = ChatTemplate(source, SPECIAL), ChatTemplate(source, SPECIAL, marked=family(name).source)
    assert bare.digest == known.digest
    rows = [
        Row(
            (
                Message("user", f"q {i}"),
                Message("assistant", f"a {i}"),
                Message("user", "x"),
                Message("assistant", "y"),
            ),
            "a:1",
        )
        for i in range(30)
    ]
    assert known.render_rows(rows) == ours(name).render_rows(rows)
    assert known.rows_by_jinja <= compiled.PROBATION + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_span_is_what_the_model_writes_from_the_generation_prompt_to_the_stop_token(name: str) -> None:
    template, stop = ours(name), family(name).stop or "</s>"
    chat = (
        Message("user", "one"),
        Message("assistant", "First."),
        Message("user", "two"),
        Message("assistant", "Second."),
    )
    text, spans = template.render_with_spans(chat)
    assert [text[a:b].removeprefix("<think>\n\n</think>\n\n").strip() for a, b in spans] == [
        "First." + stop,
        "Second." + stop,
    ]
    assert text[: spans[1][0]] == template.render(chat[:3], add_generation_prompt=True)


def test_an_unseen_template_without_markers_is_rendered_fast_and_right_too() -> None:
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim ~ '</s>' }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    template = ChatTemplate(source, SPECIAL)
    rows = [Row((Message("user", f" q{i}"), Message("assistant", f"a{i} ")), f"a:{i}") for i in range(50)]
    rows += [Row((Message("user", "x </s> y"), Message("assistant", "b")), "a:51")]
    assert template.render_rows(rows) == [by_jinja(template, row) for row in rows]
    assert template.rows_by_jinja <= compiled.PROBATION + 2


@pytest.mark.parametrize(
    "use",
    [
        "{{ m.content | upper }}",
        "{{ m.content | tojson }}",
        "{{ '%s' | format(m.content) }}",
        "{{ m.content[:2] }}",
        "{{ m.content | length }}",
        "{{ m.content.replace('a', 'b') }}",
        "{{ ['x', m.content] | join('-') }}",
        "{% if m.content in 'abc' %}in{% endif %}{{ m.content }}",
        "{% set x = 'abc' %}{% if m.content not in x %}out{% endif %}{{ m.content }}",
        "{% set x = 'abc' %}{% if m.content is in x %}in{% endif %}{{ m.content }}",
        "{% if 'a' in m.content in ['abc', 'a'] %}in{% endif %}{{ m.content }}",
        "{{ 'abc'.count(m.content) }}",
        "{{ m.content ~ m.content | length }}",
        "{{ m.content * 2 }}",
        "{{ (m.content ~ ' ') | trim }}",
        "{{ 'x' if m.content is lower else 'y' }}",
        "{{ '-'.join([m.content]) }}",
        "{{ {m.content: 1}[m.content] }}",
        "{% if m.content > 'b' %}big{% endif %}{{ m.content }}",
        "{% set x %} {{ m.content }} {% endset %}{{ x | trim }}",
        "{% macro f(t) %} {{ t }} {% endmacro %}{{ f(m.content).strip() }}",
        "{{ m.content.split('a')[0] }}",
        "{{ m.content | e }}",
        "{% for c in m.content %}{{ c }}.{% endfor %}",
        "{% if 'a' in m.content %}A{% elif m.content == 'b' %}B{% elif m.content.startswith(' ') %}C{% endif %}{{ m.content }}",
    ],
)
def test_whatever_a_template_does_to_a_text_the_result_is_jinjas(use: str) -> None:
    marked = "{% generation %}" + use + "</s>{% endgeneration %}"
    source = (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}"
        + marked
        + "{% else %}"
        + use
        + "</s>{% endif %};{% endfor %}"
    )
    template = ChatTemplate(source, SPECIAL)
    texts = ["a", "b", "abc", "bc", " a ", "", "<x>", '"q"', "ab", "c", "é a", "  "] * 3
    for number, text in enumerate(texts):
        row = Row((Message("user", texts[-number]), Message("assistant", text)), f"a:{number}")
        assert fast(template, row) == by_jinja(template, row)


def test_every_kind_of_row_is_rendered() -> None:
    template = ours("chatml")
    asked = (Message("user", "q"),)
    good, bad = (Message("assistant", "yes"),), (Message("assistant", "no"),)
    pair = Row(asked, "a:1", kind="preference", chosen=good, rejected=bad)
    labelled = Row((*asked, *good, *asked, *bad), "a:2", kind="labelled", label=False)
    chosen, last, prompt, text = template.render_rows(
        [pair, labelled, Row(asked, "a:3", kind="prompt"), Row((), "a:4", kind="text", text="Long text.")]
    )
    start = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert chosen.text == start + "yes<|im_end|>\n"
    assert chosen.rejected is not None
    assert [chosen.text[a:b] for a, b in chosen.spans] == ["yes<|im_end|>"]
    assert [chosen.rejected.text[a:b] for a, b in chosen.rejected.spans] == ["no<|im_end|>"]
    assert [last.text[a:b] for a, b in last.spans] == ["no<|im_end|>"]
    assert (prompt.text, prompt.spans) == (start, [])
    assert (text.text, text.spans) == ("Long text.</s>", [(0, 14)])


def test_calls_of_tools_are_rendered_with_parsed_arguments_and_learned() -> None:
    call = ToolCall("abcdefgh1", "find", '{"q":"é","n":1}')
    row = Row(
        (
            Message("user", "q"),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", "[]", name="find", tool_call_id="abcdefgh1"),
            Message("assistant", "None."),
        ),
        "a:1",
        tools=(TOOL,),
    )
    (made,) = ours("qwen-2.5").render_rows([row])
    assert [made.text[a:b] for a, b in made.spans] == [
        '<tool_call>\n{"name": "find", "arguments": {"q": "é", "n": 1}}\n</tool_call><|im_end|>',
        "None.<|im_end|>",
    ]
    assert '"description": "Finds é."' in made.text
    assert "<tool_response>\n[]\n</tool_response>" in made.text


def test_a_refused_row_is_named() -> None:
    row = Row((Message("system", "s"), Message("user", "q"), Message("assistant", "a")), "a.jsonl:7")
    with pytest.raises(InvalidConfig, match=r"a\.jsonl:7: .*System role not supported"):
        ours("gemma").render_rows([row])


def test_a_plan_that_differs_from_jinja_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ours("chatml")
    rows = [
        Row((Message("user", "q"), Message("assistant", f"a{i}")), f"a:{i}") for i in range(compiled.CHECKED_EVERY + 9)
    ]
    template.render_rows(rows[:8])
    fill = compiled.Plan.fill
    monkeypatch.setattr(compiled.Plan, "fill", lambda plan, texts: (fill(plan, texts)[0] + "x", []))
    with pytest.raises(RuntimeError, match="fast renderer"):
        template.render_rows(rows)
    fresh = ours("chatml")
    assert fresh.render_rows(rows[:8]) == [by_jinja(fresh, row) for row in rows[:8]]


def test_the_digest_of_our_templates_is_fixed_because_adapters_compare_it() -> None:
    again = ChatTemplate(family("qwen-3").source, SPECIAL)
    assert again.digest == ours("qwen-3").digest
    assert len({one.digest for one in FAMILIES}) == len(FAMILIES)
