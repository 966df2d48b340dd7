"""Tokens by words are the library's own tokens, for every text and every tokenizer that is taken apart."""

from __future__ import annotations

import sys
import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ftplatform.data.tokens import words
from ftplatform.data.tokens.encoding import Encoder

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
STARTER = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
TEXT = ["the quick brown fox's 12345 cards don't — “really” jump\n\n  over", "मेरा कार्ड कहाँ है? naïve café 東京 🎉"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|im"]


def trained(pattern: str | None, normalizer: object = None, special: list[str] = SPECIAL) -> Tokenizer:
    made = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    made.pre_tokenizer = (
        level if pattern is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])
    )
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT * 3, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([AddedToken(t, special=True) for t in special])
    return made


TOKENIZERS = {
    "gpt2": trained(None),
    "llama3": trained(LLAMA3),
    "qwen": trained(QWEN, normalizers.NFC()),
    "starter": trained(STARTER),
}
ENCODERS = {name: Encoder(tokenizer) for name, tokenizer in TOKENIZERS.items()}
pieces = st.one_of(
    st.text(max_size=12),
    st.sampled_from([*TEXT, *SPECIAL, "\n", " \n ", "  ", "don't", "ſ", "'ſ", "e\u0301", "\u0295", "<|im_"]),
)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.data())
@settings(deadline=None)
def test_ids_and_masks_are_those_of_the_library(name: str, data: st.DataObject) -> None:
    encoder = ENCODERS[name]
    texts, spans = [], []
    for parts in data.draw(st.lists(st.lists(pieces, max_size=6), min_size=1, max_size=4)):
        text = "".join(parts)
        places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
        texts.append(text)
        spans.append([(a, b) for a, b in zip(places[::2], places[1::2], strict=False) if a < b])
    assert encoder.by_words
    ours = encoder.encode(texts, spans)
    theirs = TOKENIZERS[name].encode_batch(texts, add_special_tokens=False)
    assert ours.ids.tolist() == [i for one in theirs for i in one.ids]
    assert ours.lengths.tolist() == [len(one.ids) for one in theirs]
    mask = [
        any(a < max(end, start + 1) and b > start for a, b in its)
        for one, its in zip(theirs, spans, strict=True)
        for start, end in one.offsets
    ]
    assert ours.learned.tolist() == mask


def test_both_pattern_engines_class_every_character_alike_but_the_disputed_ones() -> None:
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    text = "".join(characters)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    disputed = {c for c, bad in zip(characters, words._disputed(codes), strict=True) if bad}
    for kind in (r"\p{L}", r"\p{N}", r"\s", r"\p{Lu}", r"\p{Ll}", r"\p{M}"):
        split = pre_tokenizers.Split(Regex(f"{kind}+"), "removed", invert=True)
        theirs = {c for piece, _ in split.pre_tokenize_str(text) for c in piece}
        ours = set("".join(regex.findall(f"{kind}+", text)))
        assert not (theirs ^ ours) - disputed, kind
    assert not any(c.isascii() for c in disputed)
    assert len([c for c in disputed if unicodedata.category(c) != "Cn"]) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "normalizer", normalizers.Lowercase()),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda t: t.add_tokens([AddedToken("<br>", rstrip=True)]),
        lambda t: t.add_tokens([AddedToken("word", single_word=True)]),
        lambda t: setattr(t, "model", models.BPE(t.get_vocab(), [], dropout=0.5)),
    ],
)
def test_a_tokenizer_of_another_build_goes_through_the_library(change: object) -> None:
    tokenizer = trained(LLAMA3)
    change(tokenizer)  # type: ignore[operator]
    assert not Encoder(tokenizer).by_words


def test_a_sentencepiece_like_tokenizer_gets_the_librarys_ids_and_masks() -> None:
    tokenizer = trained(LLAMA3)
    tokenizer.normalizer = normalizers.Lowercase()
    text = "The CARD<|im_end|>"
    made = Encoder(tokenizer).encode([text, ""], [[(4, 18)], []])
    theirs = tokenizer.encode(text, add_special_tokens=False)
    assert made.ids.tolist() == theirs.ids
    assert made.learned.tolist() == [end > 4 for _, end in theirs.offsets]
    assert made.lengths.tolist() == [len(theirs.ids), 0]


def test_a_wrong_table_is_seen_in_the_sample_and_the_library_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = trained(LLAMA3)
    encoder = Encoder(tokenizer)
    assert encoder._words is not None
    monkeypatch.setattr(encoder._words, "_find", regex.compile(r"..?", regex.DOTALL).findall)
    assert encoder.encode([TEXT[0]], [[]]).ids.tolist() == tokenizer.encode(TEXT[0]).ids


def test_a_pattern_that_skips_characters_is_seen_by_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = trained(r"[a-z]+|[0-9]+")
    encoder = Encoder(tokenizer)
    monkeypatch.setattr(encoder, "_sample_agrees", lambda texts, done: True)
    assert encoder.encode(["abc -- 12"], [[]]).ids.tolist() == tokenizer.encode("abc -- 12").ids


def test_the_table_of_words_begins_anew_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MOST_WORDS", 3)
    encoder = Encoder(TOKENIZERS["llama3"])
    for text in (TEXT[0], "one two three four", TEXT[0]):
        assert encoder.encode([text], [[]]).ids.tolist() == TOKENIZERS["llama3"].encode(text).ids
        assert len(encoder._words._table) < 30  # type: ignore[union-attr]
