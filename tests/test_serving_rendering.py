"""Train and serve must see the same ids, and text must come back whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_support import write_base
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ftplatform.core.rows import Message, Row
from ftplatform.data.rendering.chat_format import load_chat_format
from ftplatform.data.rendering.families import FAMILIES, family
from ftplatform.data.tokens.tokenize import IGNORED, tokenize_rows
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


MARKS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|im_sep|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|pad|>",
    "<s>",
    "</s>",
]
OFFICIAL = {
    "llama-3": "llama3", "llama-3.1": "llama3_1", "llama-3.2": "llama3_2", "qwen-2.5": "qwen2_5", "qwen-3": "qwen3",
    "qwen-3-2507": "qwen3_instruct_2507", "gemma": "gemma", "gemma-3": "gemma3", "phi-3": "phi3", "phi-3.5": "phi3_5",
}  # fmt: skip
"""Official templates that come with TRL; they have no generation markers."""
FORMS = [(one.name, None) for one in FAMILIES] + list(OFFICIAL.items())
TALKS = [
    [Message("user", "Where is my card?"), Message("assistant", "It is on its way.")],
    [
        Message("system", "Be kind."),
        Message("user", "  grüße, 世界 🙂\n "),
        Message("assistant", " two\n\nlines  "),
        Message("user", "why? {{ x }} <b>"),
        Message("assistant", "é"),
    ],
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE with merges, on which words and marks can only be told apart as the real ones do it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(
        [m.content for talk in TALKS for m in talk] * 5 + ["user assistant system model"] * 9, trainer
    )
    return made


@pytest.fixture(params=FORMS, ids=lambda form: "/".join(filter(None, form)))
def base(request: pytest.FixtureRequest, small: Tokenizer, tmp_path: Path) -> tuple[Path, PreTrainedTokenizerFast]:
    """A model folder of a family, its template ours or the official one, saved and read again by transformers."""
    name, file = request.param
    if file is None:
        source = family(name).source
    else:
        trl = pytest.importorskip("trl")
        source = (Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text()
    stop = (
        next((one.stop for one in FAMILIES if one.name == ("llama-3" if name == "llama-3.2" else name)), "") or "</s>"
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=small, bos_token="<s>", eos_token=stop, pad_token="<|pad|>", extra_special_tokens=MARKS
    )
    made.chat_template = source
    made.save_pretrained(tmp_path)
    return tmp_path, AutoTokenizer.from_pretrained(tmp_path)


def refuses_system(template: str) -> bool:
    return "System role not supported" in template or "Only user and assistant roles are supported!" in template


def test_training_serving_and_transformers_have_the_same_ids_for_every_family(
    base: tuple[Path, PreTrainedTokenizerFast],
) -> None:
    folder, theirs = base
    form, codec = load_chat_format(folder), load_codec(folder)
    fixed = {"date_string": "26 Jul 2024"}  # what the templates fall back on where no clock is offered
    for talk in TALKS:
        if refuses_system(theirs.chat_template) and talk[0].role == "system":
            talk = talk[1:]
        plain = [{"role": m.role, "content": m.content} for m in talk]
        row = tokenize_rows([Row(tuple(talk), "f:1")], form.tokenizer, form.template, 10_000).rows[0]
        assert row.input_ids.tolist() == theirs.apply_chat_template(plain, return_dict=False, **fixed)
        asked = codec.chat_ids(talk[:-1])
        assert asked == theirs.apply_chat_template(plain[:-1], add_generation_prompt=True, return_dict=False, **fixed)
        learned = (row.labels != IGNORED).nonzero()[0]
        assert row.input_ids[learned[-1]] in form.stop_ids
        if form.family not in ("mistral-v3", "mistral-tekken") or talk[0].role != "system":
            # The answer begins exactly where serving's prompt ends.
            assert row.input_ids[: len(asked)].tolist() == asked
            assert len(asked) in learned
            assert len(asked) - 1 not in learned
