"""Tokens per word by language against English, and the warning that names better bases."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ftplatform.data.language.fertility import ENGLISH, ENOUGH_WORDS, Fertility, check_fertility, fertility

HINDI = "मेरा ऑर्डर कहाँ है और कब तक पहुँचेगा कृपया बताइए"


def byte_tokenizer(corpus: list[str], size: int = 500) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=["<s>"],
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def word_tokenizer() -> Tokenizer:
    """One token per word or symbol: its fertility is known by hand."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("मेरा ऑर्डर कहाँ है", 4),
        ("don't stop, 12 a", 4),
        ("می\u200cخواهم بروم", 2),
        ("我的订单在哪里啊啊啊", 6),
        ("สวัสดีครับ hello", 3),
    ],
)
def test_words_are_counted_as_the_script_writes_them(text: str, words: int) -> None:
    assert fertility({"xx": [text]}, word_tokenizer())[0].words == words


def test_a_tokenizer_of_words_needs_one_token_per_word_in_every_language() -> None:
    found = fertility(
        {"hi": [HINDI] * 20, "en": ["where is my order now"] * 30, "und": ["x"], "de": []}, word_tokenizer()
    )
    assert found == [Fertility("en", 150, 150, 1.0, 1.0), Fertility("hi", 200, 200, 1.0, 1.0)]


def test_an_english_tokenizer_is_costly_for_hindi_and_the_fixed_passage_stands_in_for_missing_english() -> None:
    tokenizer = byte_tokenizer([ENGLISH])
    found = fertility({"hi": [HINDI] * 20}, tokenizer)[0]
    assert found.tokens == 20 * len(tokenizer.encode(HINDI).ids)
    assert found.ratio_to_english > 5
    with_little_english = fertility({"hi": [HINDI] * 20, "en": ["xqzv kjwq"]}, tokenizer)
    assert with_little_english[0].language in ("hi", "en")
    assert next(f for f in with_little_english if f.language == "hi") == found


def test_a_costly_language_warns_and_names_the_clearly_better_base() -> None:
    texts = {"hi": [HINDI] * 20}
    here = fertility(texts, byte_tokenizer([ENGLISH]))
    others = {"hindi-base@1": fertility(texts, byte_tokenizer([ENGLISH, HINDI * 5])), "same@1": here}
    check = check_fertility(here, better=others)
    assert not check.passed
    assert not check.blocks
    assert "hi takes" in check.message
    assert "better: hindi-base@1" in check.message
    assert "same@1" not in check.message
    assert check.rows[0]["better_bases"] == "hindi-base@1"
    assert check.numbers == {"tokens_per_word_hi": here[0].tokens_per_word}


def test_a_base_that_is_only_bad_at_english_is_not_praised() -> None:
    here = [Fertility("hi", 500, 3000, 6.0, 4.0)]
    bytes_only = {"bytes@1": [Fertility("hi", 500, 7000, 14.0, 1.2)]}
    assert "better" not in check_fertility(here, better=bytes_only).message


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        ([], True),
        ([Fertility("ta", ENOUGH_WORDS, 900, 9.0, 2.0)], True),
        ([Fertility("ta", ENOUGH_WORDS, 900, 9.0, 2.001)], False),
        ([Fertility("ta", ENOUGH_WORDS - 1, 900, 9.0, 6.0)], True),
    ],
    ids=["nothing", "at the limit", "above", "too few words to judge"],
)
def test_only_enough_words_above_the_limit_warn(found: list[Fertility], passed: bool) -> None:
    assert check_fertility(found, limit=2.0).passed is passed
