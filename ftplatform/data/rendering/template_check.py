"""What a chat template does to conversations, tried out before anything is trained with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from ftplatform.core.checks import CheckResult
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message
from ftplatform.data.rendering.families import recognise
from ftplatform.data.rendering.render import ChatTemplate

_SYSTEM, _ASKED, _SAID, _AGAIN, _LAST = (
    "Sentinel-zero",
    "Sentinel-one",
    "Sentinel-two",
    "Sentinel-three",
    "Sentinel-four",
)
_TOOL = {
    "type": "function",
    "function": {"name": "sentinel_tool", "description": "Finds.", "parameters": {"type": "object", "properties": {}}},
}
_CHAT = (Message("user", _ASKED), Message("assistant", _SAID), Message("user", _AGAIN), Message("assistant", _LAST))
_WITH_SYSTEM = (Message("system", _SYSTEM), *_CHAT)


def check_template(
    source: str,
    special_tokens: Mapping[str, str],
    stop_tokens: Sequence[str] = (),
    control_tokens: Collection[str] = (),
) -> list[CheckResult]:
    """Findings about any template. Those of severity ``error`` make it unusable for training.

    ``stop_tokens`` end an answer (``eos_token`` when empty); ``control_tokens`` are the texts that the tokenizer encodes as
    control tokens, which the platform refuses inside a message (`data.tokenize.control_tokens`).

    =====================  ==========================================================================================
    check                  fails when
    =====================  ==========================================================================================
    template_readable      it is not a template, or refuses a plain conversation
    template_answers       it cannot be told which text the assistant has to write
    template_content       it drops a text (error), or changes white space around one (warning)
    template_stop          an answer does not end with a stop token
    template_same_prompt   a training row begins otherwise than the prompt that serving renders (warning)
    template_breakout      turns are told apart by text that a customer can type (warning)
    template_system        a system turn is refused, or is not in the text (warning)
    template_tools         descriptions of tools are not in the text (warning)
    =====================  ==========================================================================================
    """
    try:
        known = recognise(source, special_tokens)
        template = ChatTemplate(source, special_tokens, stop_tokens, marked=known.source if known else None)
        text = template.render(_CHAT)
    except InvalidConfig as error:
        return [CheckResult("template_readable", False, f"{error}.")]
    readable = CheckResult("template_readable", True, "It renders a conversation of two questions and two answers.")
    how = _how(template, known.name if known else None)
    try:
        spans = template.render_with_spans(_CHAT)[1]
    except InvalidConfig as error:
        return [readable, CheckResult("template_answers", False, f"{error}.")]
    content = _content(template, text)
    found = [
        readable,
        CheckResult("template_answers", True, how),
        content,
        _stop(template, [text[start:end] for start, end in spans]),
    ]
    # Of a template that loses texts nothing more can be said.
    if content.blocks:
        return found
    return [
        *found,
        _same_prompt(template),
        _breakout(text, control_tokens or set(special_tokens.values())),
        _system(template),
        _tools(template),
    ]


def _how(template: ChatTemplate, family: str | None) -> str:
    if template.has_markers:
        return "What the assistant writes is marked by the template itself."
    if family is not None:
        return f"It renders what {family} renders, for which the platform has generation markers."
    return "It has no generation markers; what the assistant writes is what a turn adds to the generation prompt."


def _content(template: ChatTemplate, text: str) -> CheckResult:
    lost = [content for content in (_ASKED, _SAID, _AGAIN, _LAST) if content not in text]
    if lost:
        return CheckResult(
            "template_content",
            False,
            f"{len(lost)} of 4 texts are not in what the model reads: the template drops or rewrites them.",
        )
    padded = f" \n{_ASKED}\n ", f" \n{_LAST}\n "
    chat = (Message("user", padded[0]), *_CHAT[1:3], Message("assistant", padded[1]))
    rendered = template.render(chat)
    trimmed = [who for who, one in zip(("user", "assistant"), padded, strict=True) if one not in rendered]
    if trimmed:
        return CheckResult(
            "template_content",
            False,
            f"White space at the edges of {' and '.join(trimmed)} texts is lost, so a model never learns to write it.",
            severity="warning",
        )
    return CheckResult("template_content", True, "Every text is in what the model reads, white space included.")


def _stop(template: ChatTemplate, answers: Sequence[str]) -> CheckResult:
    endless = [answer for answer in answers if not any(stop in answer for stop in template.stop_tokens)]
    stops = ", ".join(template.stop_tokens) or "none"
    return CheckResult(
        "template_stop",
        not endless,
        f"{len(answers) - len(endless)} of {len(answers)} answers hold a stop token (stop tokens: {stops})."
        + (" A model that never learns one never stops." if endless else ""),
    )


def _same_prompt(template: ChatTemplate) -> CheckResult:
    different = []
    for name, chat in (("a conversation", _CHAT), ("a conversation with a system turn", _WITH_SYSTEM)):
        if _refused(partial(template.render, chat)):
            continue
        text, spans = template.render_with_spans(chat)
        prompts = [template.render(chat[:i], True) for i, m in enumerate(chat) if m.role == "assistant"]
        if any(text[:start] != prompt for (start, _), prompt in zip(spans, prompts, strict=True)):
            different.append(name)
    if different:
        message = (
            f"In {' and '.join(different)}, what stands before an answer in training is not what serving renders "
            "before it: the model learns from prompts that it will not see. Train on single answers, or without the "
            "part that changes (see template_system)."
        )
    else:
        message = "A training row begins with exactly the prompt that serving renders."
    return CheckResult("template_same_prompt", not different, message, severity="warning")


def _breakout(text: str, control_tokens: Collection[str]) -> CheckResult:
    after_question = text.split(_ASKED)[1].split(_SAID)[0]
    after_answer = text.split(_SAID)[1].split(_AGAIN)[0]
    open_ended = [part for part in (after_question, after_answer) if not any(t in part for t in control_tokens)]
    return CheckResult(
        "template_breakout",
        not open_ended,
        f"Turns are told apart by ordinary text ({', '.join(map(repr, open_ended))}): who types it writes another's turn. "
        "Add the template's marks to the tokenizer as special tokens; the platform then refuses them in messages."
        if open_ended
        else "Turns are told apart by control tokens, which are refused inside messages.",
        severity="warning",
    )


def _system(template: ChatTemplate) -> CheckResult:
    if reason := _refused(partial(template.render, _WITH_SYSTEM)):
        return CheckResult(
            "template_system", False, f"Rows with a system turn are refused: {reason}.", severity="warning"
        )
    shown = _SYSTEM in template.render(_WITH_SYSTEM)
    asked = _SYSTEM in template.render(_WITH_SYSTEM[:-1], True)
    message = "The system turn is in what the model reads."
    if not shown:
        message = "The system turn is not in the text of a training row" + (
            ", though it is in the prompt when serving." if asked else "."
        )
    return CheckResult("template_system", shown, message, severity="warning")


def _tools(template: ChatTemplate) -> CheckResult:
    tools: list[dict[str, Any]] = [_TOOL]
    if reason := _refused(partial(template.render, _CHAT, tools=tools)):
        return CheckResult("template_tools", False, f"Rows with tools are refused: {reason}.", severity="warning")
    shown = "sentinel_tool" in template.render(_CHAT, tools=tools)
    message = "Descriptions of tools are in what the model reads." if shown else "The template leaves tools out."
    return CheckResult("template_tools", shown, message, severity="warning")


def _refused(render: Callable[[], object]) -> str:
    try:
        render()
    except InvalidConfig as error:
        return str(error)
    return ""
