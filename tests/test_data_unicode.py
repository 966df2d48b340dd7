"""The Unicode policy: what goes, what stays, what is counted."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftplatform.core.dataset_config import UnicodeConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.language.scripts import SCRIPTS, letter_counts, shares
from ftplatform.data.language.unicode_text import COUNTS, clean_row, clean_text

DEFAULT = UnicodeConfig()
TRICKY = "a1é\u0301\u0915\u094d\u200c\u200d\u200b\ufeff\u00ad\u202e\u2069\u200e\u05d0\u06cc\ufb50\u1780\u1820\u180e\u2764\ufe0f\U0001f3f4\U000e0067\U000e007f\U000e0101\u5b57\u2122\uff11\u0663\u096a\x00\x0c\u2028\ud800\ufffe"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Sinhala and Hindi", "ක්\u200dෂ क्\u200dष र्\u200dय"),
        ("Persian", "می\u200cخواهم"),
        ("a family and a heart on fire", "👨\u200d👩\u200d👧 ❤\ufe0f\u200d🔥"),
        ("a keycap and a plain heart", "1\ufe0f\u20e3 ❤\ufe0f"),
        ("the flag of Scotland", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"),
        ("Khmer word borders", "ខ្ញុំ\u200bស្រលាញ់"),
        ("Mongolian vowel separator", "ᠠ\u180eᠠ"),
        ("marks in Hebrew", "שלום\u200e!"),
        ("a variant of a Han character", "葛\U000e0100"),
        ("tabs and line ends", "a\tb\r\nc\n"),
    ],
    ids=lambda value: value if value.isascii() and len(value) > 8 else "",
)
def test_what_a_script_needs_stays(text: str, kept: str) -> None:
    cleaned, counts = clean_text(kept, DEFAULT)
    assert cleaned is kept
    assert counts == {}


@pytest.mark.parametrize(
    ("text", "cleaned", "counts"),
    [
        ("pass\u200bword", "password", {"zero_width": 1}),
        ("\ufeffhello\ufeff", "hello", {"byte_order_mark": 2}),
        ("co\u00adop", "coop", {"soft_hyphen": 1}),
        ("a\u2060b\u2063c", "abc", {"zero_width": 2}),
        ("a\u200cb\u200dc", "abc", {"joiner": 2}),
        ("hi\U000e0069\U000e0067\U000e006e", "hi", {"tag_character": 3}),
        ("🏴\U000e0069\U000e0067\U000e007f", "🏴", {"tag_character": 3}),
        ("😀\U000e0121\U000e0134", "😀", {"variation_selector": 2}),
        ("a\ufe0fb", "ab", {"variation_selector": 1}),
        ("user\u202etxt.exe\u202c", "usertxt.exe", {"bidi": 2}),
        ("\u2066a\u2069", "a", {"bidi": 2}),
        ("\u200eabc", "abc", {"direction_mark": 1}),
        ("a\x00b\x1b[31m", "ab[31m", {"control": 2}),
        ("page\x0cpage\u2028line", "page\npage\nline", {"line_separator": 2}),
        ("a\ud800b", "a\ufffdb", {"lone_surrogate": 1}),
        ("a\ufdd0\U0001ffffb", "ab", {"noncharacter": 2}),
        ("e\u0301", "é", {"normalised": 1}),
        ("e\u200b\u0301", "é", {"zero_width": 1, "normalised": 1}),
    ],
)
def test_what_nobody_sees_goes_and_is_counted(text: str, cleaned: str, counts: dict[str, int]) -> None:
    assert clean_text(text, DEFAULT) == (cleaned, counts)


def test_digits_are_mapped_only_when_asked_and_mixed_systems_are_counted() -> None:
    text = "१२ ٣ １ 𝟗 and 4"
    assert clean_text(text, DEFAULT) == (text, {"mixed_digits": 1})
    cleaned, counts = clean_text(text, UnicodeConfig(digits="ascii"))
    assert cleaned == "12 3 1 9 and 4"
    assert counts == {"mixed_digits": 1, "digits_mapped": 5}
    assert clean_text("१२", UnicodeConfig(digits="ascii")) == ("12", {"digits_mapped": 2})
    assert clean_text("१२", DEFAULT) == ("१२", {})


def test_a_policy_of_keep_leaves_the_invisible_but_never_control_characters() -> None:
    keep = UnicodeConfig(normalise="off", zero_width="keep", bidi="keep")
    text = "e\u0301\u200b\u202e\U000e0041"
    assert clean_text(text, keep)[0] is text
    assert clean_text(text + "\x07", keep) == (text, {"control": 1})
    assert clean_text(text, UnicodeConfig(normalise="off", bidi="keep"))[0] == "e\u0301\u202e"


def test_compatibility_forms_are_mapped_by_nfkc_alone() -> None:
    assert clean_text("ﬁne Ａ™", DEFAULT)[0] == "ﬁne Ａ™"
    assert clean_text("ﬁne Ａ™", UnicodeConfig(normalise="NFKC")) == ("fine ATM", {"normalised": 1})


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.one_of(st.sampled_from(TRICKY), st.characters(exclude_categories=()))),
    st.sampled_from(["NFC", "NFKC", "off"]),
    st.sampled_from(["keep", "ascii"]),
)
def test_cleaning_twice_is_cleaning_once(text: str, normalise: str, digits: str) -> None:
    config = UnicodeConfig.model_validate({"normalise": normalise, "digits": digits})
    cleaned, counts = clean_text(text, config)
    assert clean_text(cleaned, config)[0] is cleaned
    assert set(counts) <= set(COUNTS)
    assert (cleaned is text) == (cleaned == text)
    cleaned.encode("utf-8")
    if normalise != "off":
        assert unicodedata.is_normalized(normalise, cleaned)
    if digits == "ascii":
        assert not any(c.isdecimal() and not c.isascii() for c in cleaned)


def test_a_row_is_cleaned_in_every_text_and_stays_the_same_object_when_clean() -> None:
    clean = Row((Message("user", "मेरा"), Message("assistant", "ok")), "f:1")
    assert clean_row(clean, DEFAULT) == (clean, {})
    assert clean_row(clean, DEFAULT)[0] is clean
    dirty = Row(
        (Message("user", "a\u200b"),),
        "f:1",
        kind="preference",
        chosen=(Message("assistant", "b\u200b"),),
        rejected=(Message("assistant", "c"),),
    )
    cleaned, counts = clean_row(dirty, DEFAULT)
    assert list(cleaned.contents()) == ["a", "b", "c"]
    assert counts == {"zero_width": 2}


def test_letters_are_counted_by_script_with_their_vowel_signs() -> None:
    letters, symbols = letter_counts(["मेरा order 12!", "{x}", "", "漢字かな한국", "𐤀"])
    found = [{name: n for name, n in zip(SCRIPTS, row, strict=True) if n} for row in letters.tolist()]
    assert found == [
        {"Latin": 5, "Devanagari": 4},
        {"Latin": 1},
        {},
        {"Hiragana": 2, "Hangul": 2, "Han": 2},
        {"Other": 1},
    ]
    assert symbols.tolist() == [0, 2, 0, 0, 0]
    assert list(shares(letters)[0].items()) == [("Latin", 0.5556), ("Devanagari", 0.4444)]
    assert shares(letters)[1:3] == [{"Latin": 1.0}, {}]


def test_counting_in_slices_gives_what_counting_each_text_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["abc", "मेरा", "", "x" * 50, "தமிழ்", "漢"] * 3
    alone = [letter_counts([text])[0][0].tolist() for text in texts]
    monkeypatch.setattr("ftplatform.data.language.scripts._CHARACTERS_AT_ONCE", 20)
    assert letter_counts(texts)[0].tolist() == alone
