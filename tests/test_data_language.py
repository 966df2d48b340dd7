"""The language of a text: many scripts, code, code-mixed text, Hindi in Latin letters, and texts CLD2 refuses."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from ftplatform.data.language.detect import UNDETERMINED, detect

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

LANGUAGES = {
    "en": "Where is my order? I have been waiting for two weeks now.",
    "hi": "मेरा ऑर्डर कहाँ है? दो सप्ताह से कोई जवाब नहीं मिला।",
    "mr": "मला माझी ऑर्डर अजून मिळाली नाही, कृपया मदत करा.",
    "ne": "मेरो अर्डर कहाँ छ? मैले दुई हप्ता देखि पर्खिरहेको छु।",
    "bn": "আমার অর্ডার কোথায়? দুই সপ্তাহ ধরে অপেক্ষা করছি।",
    "ta": "என் ஆர்டர் எங்கே? இரண்டு வாரங்களாக காத்திருக்கிறேன்.",
    "te": "నా ఆర్డర్ ఎక్కడ ఉంది?",
    "kn": "ನನ್ನ ಆರ್ಡರ್ ಎಲ್ಲಿದೆ?",
    "ml": "എന്റെ ഓർഡർ എവിടെയാണ്?",
    "gu": "મારો ઓર્ડર ક્યાં છે?",
    "pa": "ਮੇਰਾ ਆਰਡਰ ਕਿੱਥੇ ਹੈ?",
    "or": "ମୋ ଅର୍ଡର କେଉଁଠାରେ ଅଛି?",
    "ur": "میرا آرڈر کہاں ہے؟ میں دو ہفتوں سے انتظار کر رہا ہوں۔",
    "fa": "سفارش من کجاست؟ دو هفته است که منتظر هستم.",
    "ar": "أين طلبي؟ أنا أنتظر منذ أسبوعين ولم يصلني أي رد.",
    "he": "איפה ההזמנה שלי? אני מחכה כבר שבועיים.",
    "zh": "我的订单在哪里？我已经等了两个星期了。",
    "ja": "注文はどこですか？二週間も待っています。",
    "ko": "제 주문이 어디에 있나요?",
    "ru": "Почему моя карта не работает? Мне нужна помощь.",
    "de": "Wo ist meine Bestellung? Ich warte schon seit zwei Wochen.",
    "fr": "Où est ma commande ? J'attends depuis deux semaines.",
    "es": "¿Dónde está mi pedido? Llevo dos semanas esperando.",
    "nb": "Hvor er bestillingen min? Jeg har ventet i to uker nå.",
    "vi": "Đơn hàng của tôi ở đâu? Tôi đã chờ hai tuần rồi.",
    "tr": "Siparişim nerede? İki haftadır bekliyorum.",
}
PYTHON = """import os

class Reader(object):
    def __init__(self, path):
        self.path = path

    def lines(self):
        return [line.strip() for line in open(self.path) if line]
"""


def language(text: str) -> str:
    return detect([text])[0].language


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_sentence_has_its_language(code: str) -> None:
    found = detect([LANGUAGES[code]])[0]
    assert found.language == code
    assert found.confidence > 0.8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12345 !!",
        "😀😀",
        "ok",
        PYTHON,
        "for (int i = 0; i < n; ++i) {\n  sum += values[i];\n}\nreturn sum;",
        "SELECT name, price FROM orders WHERE id = 3 AND state = 'open' ORDER BY id;",
        '{"order": 17, "items": [{"name": "chair", "price": 20}], "state": "open"}',
        "```python\nprint('the order is on its way to you')\n```",
    ],
    ids=["empty", "digits", "emoji", "one word", "python", "c", "sql", "json", "fenced"],
)
def test_code_and_texts_without_words_have_no_language(text: str) -> None:
    found = detect([text])[0]
    assert (found.language, found.confidence) == (UNDETERMINED, 0.0)


def test_a_question_with_code_has_the_language_of_the_question() -> None:
    assert language(f"Why does this program fail when the file is empty?\n```python\n{PYTHON}```") == "en"
    assert language(f"यह प्रोग्राम क्यों नहीं चल रहा है?\n{PYTHON}") == "hi"
    assert (
        language("# Title\n\n- **First** point of the list\n- second point (with a note)\n\nSome *text* comes here.")
        == "en"
    )


@pytest.mark.parametrize(
    "text",
    [
        "mera order kahan hai bhai, jaldi batao mujhe",
        "mera card kaam nahi kar raha hai, kya karu",
        "please cancel my order kyunki mujhe nahi chahiye",
        "Aap kaise ho? Main theek hoon",
    ],
)
def test_hindi_in_latin_letters_is_hindi_and_its_script_says_how_it_is_written(text: str) -> None:
    found = detect([text])[0]
    assert found.language == "hi"
    assert found.scripts == {"Latin": 1.0}


def test_code_mixed_text_has_its_larger_part_with_less_confidence_and_both_scripts() -> None:
    found = detect(["मेरा order अभी तक deliver नहीं हुआ है please help"])[0]
    assert found.language == "hi"
    assert 0 < found.confidence < 0.5
    assert found.scripts == {"Latin": 0.55, "Devanagari": 0.45}


def test_a_guess_between_many_languages_is_not_believed() -> None:
    """CLD2 guesses Serbian, Sindhi, Wolof and Dutch here."""
    texts = ["Где мой заказ? Я жду уже две недели.", "اين طلبي", "naan enga order iruku sollunga", "ok"]
    assert [d.language for d in detect(texts)] == [UNDETERMINED] * 4


def test_one_word_is_enough_in_a_script_of_one_language() -> None:
    assert [d.language for d in detect(["ஆம்", "అవును", "예정", "ഉണ്ട്"])] == ["ta", "te", "ko", "ml"]


@pytest.mark.parametrize("bad", ["\x00", "\x01", "\ud800", "\ufdd0", "\ufffe", "\U0001ffff", "\x7f"])
def test_characters_that_cld2_refuses_do_not_stop_it(bad: str) -> None:
    assert language(f"Where is{bad} my order? I have been waiting for two weeks now.") == "en"


def test_the_answer_does_not_depend_on_the_neighbours() -> None:
    texts = [*LANGUAGES.values(), PYTHON, "", "ok"]
    assert detect(texts) == [detect([text])[0] for text in texts] == detect(texts[::-1])[::-1]
    assert detect([]) == []


def test_a_long_text_is_judged_by_beginning_middle_and_end() -> None:
    """Not one sentence repeated: CLD2 skips repetitions."""
    words = (
        "wir haben ihre bestellung heute morgen leider noch nicht erhalten aber das paket kommt sicher nächste woche an"
    )
    draw = random.Random(5)
    long = LANGUAGES["en"] * 5 + "\n" + " ".join(draw.choices(words.split(), k=50_000))
    assert language(long) == "de"


@pytest.mark.parametrize(
    "text",
    ["a(" * 6000, " " * 11_000 + "=;{", "a" * 11_000 + "{}" * 400, "`<" * 6000, "```\n" * 3000],
    ids=["calls", "spaces", "one word", "quotes", "fences"],
)
def test_a_text_made_to_slow_down_the_code_rules_does_not(text: str) -> None:
    """Quadratic rules would take minutes here."""
    assert {d.language for d in detect([text] * 50)} == {UNDETERMINED}


def test_bank_questions_are_english() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared data is not on this machine")
    with (SHARED / "banking77_test.csv").open(encoding="utf-8") as file:
        found = [d.language for d in detect([row["text"] for row in csv.DictReader(file)])]
    assert set(found) == {"en", UNDETERMINED}
    assert found.count("en") > 0.99 * len(found)
