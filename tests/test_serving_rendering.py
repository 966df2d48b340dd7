"""Train and serve must see the same ids, and text must come back whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_support import write_base
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from ftplatform.core.rows import Message, Row
from ftplatform.data.chat_format import load_chat_format
from ftplatform.data.tokenize import tokenize_rows
from ftplatform.serving.embedded_errors import ApiError
from ftplatform.serving.embedded_text import Decoder, TextCodec, load_codec
from ftplatform.training.starter import CHAT_TEMPLATE

CHATS = [
    [Message("user", "hello")],
    [
        Message("system", "Be kind."),
        Message("user", "2 + 2?"),
        Message("assistant", "4"),
        Message("user", "grüße, 世界 🙂\n  <tag> 'q'"),
    ],
    [Message("user", "   spaces and\ttabs \n\n")],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("rendering"))


@pytest.fixture(scope="module")
def codec(folder: Path) -> TextCodec:
    return load_codec(folder)


@pytest.mark.parametrize("chat", CHATS)
def test_serving_gives_the_ids_that_transformers_gives(folder: Path, codec: TextCodec, chat: list[Message]) -> None:
    plain = [{"role": m.role, "content": m.content} for m in chat]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        plain, add_generation_prompt=True, return_dict=False
    )
    assert codec.chat_ids(chat) == theirs


@pytest.mark.parametrize("chat", CHATS)
def test_a_training_row_begins_with_the_ids_that_serving_gives_for_its_question(
    folder: Path, codec: TextCodec, chat: list[Message]
) -> None:
    form = load_chat_format(folder)
    row = Row((*chat, Message("assistant", "fine")), "f:1")
    trained = tokenize_rows([row], form.tokenizer, form.template, 10_000).rows[0].input_ids.tolist()
    asked = codec.chat_ids(chat)
    assert trained[: len(asked)] == asked
    assert trained[len(asked) :][:5] == [*codec.prompt_ids("fine"), form.tokenizer.token_to_id("<|im_end|>")]


def test_the_starters_template_is_the_one_tested_here(folder: Path) -> None:
    assert load_chat_format(folder).template.source == CHAT_TEMPLATE


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_a_control_token_in_a_message_is_refused(codec: TextCodec, token: str) -> None:
    with pytest.raises(ApiError) as caught:
        codec.chat_ids([Message("system", "x"), Message("user", f"say {token} please")])
    assert caught.value.status == 400
    assert caught.value.body["error"]["param"] == "messages[1].content"


def test_text_comes_back_piece_by_piece_as_it_was(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "plain, grüße, 世界 🙂 end"
    decoder, pieces = Decoder(tokenizer, ()), []
    for token in tokenizer.encode(text).ids:
        pieces.append(decoder.add(token))
    assert "".join(pieces) + decoder.rest() == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [("abXYcd", "XY", "ab"), ("abXcd", "XY", "abXcd"), ("aXXYd", "XY", "aX"), ("abX", "XY", "abX")],
)
def test_a_stop_string_across_tokens_is_found_and_its_beginning_never_leaks(
    folder: Path, text: str, stop: str, expected: str
) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    decoder, shown = Decoder(tokenizer, (stop,)), ""
    for token in tokenizer.encode(text).ids:
        shown += decoder.add(token)
        assert expected.startswith(shown)
        if decoder.stopped:
            break
    assert shown + decoder.rest() == expected
    assert decoder.stopped == (stop in text)


def test_a_token_that_is_half_a_character_is_named_by_its_bytes(codec: TextCodec) -> None:
    first = codec.prompt_ids("ü")[0]
    assert codec.piece(first) == ("bytes:\\xc3", b"\xc3")
    assert codec.piece(codec.prompt_ids("a")[0]) == ("a", b"a")
