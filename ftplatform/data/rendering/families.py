"""The model families whose chat templates we have in a form for training: with generation markers.

``templates/NAME.jinja`` renders what the family's own template renders, for every conversation; it marks what the
model has to produce, its stop token included and what the template writes after it left out. A family is recognised
by what a template does with a set of conversations, not by its source, which differs between releases in spaces,
comments and parts that text does not reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from ftplatform.core.digests import digest_bytes
from ftplatform.core.errors import InvalidConfig
from ftplatform.data.rendering.jinja import Program, Turn


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    """The template's file name without ending."""
    models: str
    """Whose template renders the same, for people."""
    stop: str
    """What ends a turn; empty: the tokenizer's ``eos_token``."""
    tools: bool = False
    """Whether tools and their calls reach the text."""

    @property
    def source(self) -> str:
        return _source(self.name)

    @property
    def digest(self) -> str:
        """SHA-256 of the template's text."""
        return digest_bytes(self.source.encode())


FAMILIES: tuple[Family, ...] = (
    Family("chatml", "ChatML, and every model whose template is plain ChatML", "<|im_end|>"),
    Family("llama-3", "Llama 3", "<|eot_id|>"),
    Family("llama-3.1", "Llama 3.1, 3.2 (text) and 3.3", "<|eot_id|>", tools=True),
    Family("qwen-2.5", "Qwen 2.5 Instruct", "<|im_end|>", tools=True),
    Family("qwen-3", "Qwen 3", "<|im_end|>", tools=True),
    Family("qwen-3-2507", "Qwen 3 Instruct 2507", "<|im_end|>", tools=True),
    Family("mistral-v1", "Mistral 7B Instruct 0.1 and 0.2, Mixtral", ""),
    Family("mistral-v1-first", "the same as first published, without system turn", ""),
    Family("mistral-v3", "Mistral 7B Instruct 0.3", "", tools=True),
    Family("mistral-tekken", "Mistral Nemo", "", tools=True),
    Family("mistral-v7", "Mistral Small 3 without its dated default system turn", ""),
    Family("gemma", "Gemma 1 and 2", "<end_of_turn>"),
    Family("gemma-3", "Gemma 3", "<end_of_turn>"),
    Family("phi-3", "Phi 3", "<|end|>"),
    Family("phi-3.5", "Phi 3.5", "<|end|>"),
    Family("phi-4", "Phi 4", "<|im_end|>"),
    Family("phi-4-mini", "Phi 4 mini", "<|end|>"),
)


def family(name: str) -> Family:
    """Raises InvalidConfig for a name that is not in ``FAMILIES``."""
    found = next((one for one in FAMILIES if one.name == name), None)
    if found is None:
        raise InvalidConfig(f"no template family {name!r}; accepted: {', '.join(one.name for one in FAMILIES)}")
    return found


def recognise(source: str, special_tokens: Mapping[str, str]) -> Family | None:
    """The family whose template renders, or refuses, every probe as ``source`` does; None when there is none.

    Raises:
        InvalidConfig: ``source`` is not a template.
    """
    return _recognise(source, tuple(sorted(special_tokens.items())))


@lru_cache(maxsize=64)
def _recognise(source: str, special_tokens: tuple[tuple[str, str], ...]) -> Family | None:
    special = dict(special_tokens)
    theirs = Program(source, special)
    wanted: list[str | None] = []
    left = [(one, Program(one.source, special)) for one in FAMILIES]
    for number, probe in enumerate(probes()):
        wanted.append(_render(theirs, *probe))
        left = [(one, program) for one, program in left if _render(program, *probe) == wanted[number]]
    # A template that refuses everything says nothing about itself.
    return left[0][0] if left and any(wanted) else None


def probes() -> Iterator[tuple[list[Turn], list[dict[str, Any]], bool]]:
    """Conversations of every shape that templates treat differently: (turns, tools, add_generation_prompt)."""
    user, answer = {"role": "user", "content": " Hi  there \n"}, {"role": "assistant", "content": "\n Ünïcode <b> "}
    system = {"role": "system", "content": " Be brief.\n"}
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}
    calls = [{"id": "abcdefgh1", "type": "function", "function": {"name": "f", "arguments": {"x": "é", "n": 1}}}]
    call = {"role": "assistant", "content": "", "tool_calls": calls}
    result = {"role": "tool", "content": '{"y": 2}', "name": "f", "tool_call_id": "abcdefgh1"}
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    said = {"role": "assistant", "content": "calling", "tool_calls": calls}
    chats: list[list[Turn]] = [
        [user, answer],
        [system, user, answer],
        [{"role": "system", "content": ""}, user, answer],
        [user, answer, user, answer],
        [system, user, thought, user, thought],
        [user, {"role": "assistant", "content": ""}],
        [user, user, answer],
        [user, answer, answer],
        [user, answer, system, user, answer],
        [answer, user, answer],
        [user, call, result, answer],
        [system, user, said, result, result, thought],
        [user, {**call, "tool_calls": calls * 2}, result, result, answer, user, answer],
        [user, {"role": "critic", "content": "no"}, answer],
    ]
    for chat in chats:
        yield chat, [], False
        yield chat, [tool, tool], False
        asked = max(i for i, turn in enumerate(chat) if turn["role"] in ("user", "tool"))
        yield chat[: asked + 1], [], True
        yield chat[: asked + 1], [tool], True


def _render(program: Program, turns: list[Turn], tools: list[dict[str, Any]], prompt: bool) -> str | None:
    try:
        return program.run(turns, tools, prompt)[0]
    except InvalidConfig:
        return None


@cache
def _source(name: str) -> str:
    return files("ftplatform.data.rendering").joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
