"""Planted personal data is found, exactly where presidio finds it, and what is scrubbed stays scrubbed."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from samples_pii.planted import RIGHT, samples, table

from ftplatform.data.pii.find import Finder, merge, recognize
from ftplatform.data.pii.fold import fold
from ftplatform.data.pii.phone import _judge, find_phones, long_enough
from ftplatform.data.pii.prefilter import relax
from ftplatform.data.pii.rules import LEAST_SCORE, NAMES, RULES, load_recognizers
from ftplatform.data.pii.scrubber import DEFAULTS, ENTITIES, SECRETS, mask

EVERYTHING = tuple(RULES)
SHARDS = [
    "::",
    "1.2.3.4.5",
    "--",
    "(",
    "123",
    "99-1234",
    "a@b",
    "DE89",
    ":",
    "ext. 55",
    "ssn",
    "passport",
    "+",
    "İ",
    "ſ",
]


@pytest.fixture(scope="module")
def everything() -> Finder:
    return Finder(EVERYTHING)


@pytest.fixture(scope="module")
def usual() -> Finder:
    return Finder(DEFAULTS)


def mixed_texts(count: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    whole = [text for _, _, text, _ in samples()]
    shards = [word for text in whole for word in text.split()] + SHARDS
    for _ in range(count):
        yield rng.choice(["", " ", "\n", " - "]).join(rng.choices(shards, k=rng.randint(1, 9)))
        yield "".join(rng.choices("0123456789 .-:@()+abfAKIeyXZ/=\n\u200b\u0967\uff11", k=rng.randint(5, 40)))
        yield "".join(rng.choices(rng.choice(whole) + rng.choice(whole), k=30))


def test_every_planted_value_is_covered_and_clean_texts_are_left_alone(usual: Finder) -> None:
    missed, wrong = [], []
    finders = {entity: usual if RULES[entity].on else Finder((*DEFAULTS, entity)) for entity in RULES}
    for entity, value, text, _ in samples():
        found = [(span.entity, text[span.start : span.end]) for span in finders.get(entity, usual).find(text)]
        if value and not any(value in what for _, what in found):
            missed.append((entity, value, found))
        if not entity and found:
            wrong.append((text, found))
        # A number with a wrong check digit may be something else (ten digits are a phone number), never itself.
        if entity and not value and any(name == entity for name, _ in found):
            wrong.append((text, found))
    assert (missed, wrong) == ([], [])


def test_the_planted_set_has_every_entity_and_is_the_one_on_disk() -> None:
    from pathlib import Path

    assert set(RIGHT) == set(RULES)
    path = Path(__file__).parent / "samples_pii" / "planted.tsv"
    assert path.read_text("utf-8") == table(), "run tests/samples_pii/planted.py again"


def test_the_scan_in_front_never_hides_what_a_recognizer_finds(everything: Finder) -> None:
    for text in [*(text for _, _, text, _ in samples()), *mixed_texts(150, seed=5)]:
        folded = fold(text)
        alone = merge([span for entity in EVERYTHING for span in recognize(folded.text, entity)])
        expected = [(*folded.original(s.start, s.end), s.entity, s.score) for s in alone]
        assert [(s.start, s.end, s.entity, s.score) for s in everything.find(text)] == expected, repr(text)


def test_phone_numbers_are_those_of_presidios_own_recognizer() -> None:
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    theirs = PhoneRecognizer()
    rng = random.Random(11)
    pieces = ["+1 212 555 0147", "020 7946 0958", "2024-05-03", "10:30", "ext. 55", "a", "(0)30 1234567", "/", "x", "INT",
              "98765 43210;", "2024-05-03 10:30", "#12", "call", "+49 30 123456", "1640"]  # fmt: skip
    texts = [" ".join(rng.choices(pieces, k=rng.randint(1, 5))) for _ in range(80)]
    texts += ["".join(rng.choices("0123456789" * 3 + " .-:()+#xaceg/,\n", k=rng.randint(8, 50))) for _ in range(80)]
    for text in texts:
        found = {(r.start, r.end) for r in theirs.analyze(text, ["PHONE_NUMBER"])}
        ours = set(find_phones(text))
        # Presidio leaves out a finding that lies inside another one.
        inside = {a for a in ours for b in ours if a != b and b[0] <= a[0] and a[1] <= b[1]}
        assert ours - inside == {f for f in found if long_enough(text[f[0] : f[1]])}, repr(text)


def test_addresses_are_those_of_presidios_own_recognizer(monkeypatch: pytest.MonkeyPatch) -> None:
    import tldextract
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    monkeypatch.setattr(tldextract, "extract", tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None))
    rng = random.Random(4)
    pieces = ["jo", "@", "@", ".", "example.com", "-", "a" * 200, " ", "\n", "(", "ü", '"', "x.org", "!#", "_"]
    for _ in range(150):
        text = "".join(rng.choices(pieces, k=rng.randint(3, 14)))
        theirs = {(r.start, r.end) for r in EmailRecognizer().analyze(text, ["EMAIL_ADDRESS"])}
        ours = {(s.start, s.end) for s in recognize(text, "EMAIL_ADDRESS")}
        # Nothing longer than an address can be is looked at as one.
        assert ours == theirs or any(end - start > 320 for start, end in theirs), repr(text)


def test_a_long_stretch_without_spaces_hides_no_address(usual: Finder) -> None:
    # Presidio's own pattern needs the square of this length, and gives the text up after a minute.
    assert [s.end - s.start for s in usual.find("a-" * 20_000 + " jo@example.com")] == [14]


def test_a_date_is_no_phone_number_for_presidio_either() -> None:
    rng = random.Random(2)
    for _ in range(40):
        date = f"{rng.randint(1900, 2099)}-{rng.randint(1, 12):02}-{rng.randint(1, 31):02}"
        assert _judge(" ", date, " ") == (), date
        assert find_phones(f"on {date}, then +1 212 555 0147") == [(20, 35)]


def test_findings_are_those_of_presidios_own_engine() -> None:
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    # The engine asks recognizers of its text's language only; weak matches near a word it counts with a language model.
    known = load_recognizers()
    entities = [e for e in DEFAULTS if not RULES[e].near and known[e].supported_language == "en"]
    registry = RecognizerRegistry(recognizers=[known[entity] for entity in entities])
    engine = AnalyzerEngine(registry=registry, nlp_engine=NoOpNlpEngine([{"lang_code": "en", "model_name": "none"}]))
    finder = Finder(entities)
    for text in mixed_texts(15, seed=7):
        folded = fold(text)
        if folded.places is not None:
            continue
        covered = {
            i for r in engine.analyze(folded.text, "en", score_threshold=LEAST_SCORE) for i in range(r.start, r.end)
        }
        assert {i for span in finder.find(text) for i in range(span.start, span.end)} == covered, repr(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card ４１１１ １１１１ １１１１ １１１１ ok", "４１１１ １１１１ １１１１ １１１１"),
        ("card 4111\u200b1111\u20601111\u200d1111 ok", "4111\u200b1111\u20601111\u200d1111"),
        ("card 4111\u20111111\u20111111\u20111111 ok", "4111\u20111111\u20111111\u20111111"),
        ("फ़ोन +९१ ९८७६५ ४३२१० पर", "+९१ ९८७६५ ४३२१०"),
        ("mail jo＠example．com ok", "jo＠example．com"),
        ("mail दिल्ली@उदाहरण.भारत ok", "दिल्ली@उदाहरण.भारत"),
        ("key -----BEGIN PRIVATE KEY-----\nMIIEow", "-----BEGIN PRIVATE KEY-----\nMIIEow"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXktdjE", "-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXktdjE"),
    ],
)  # fmt: skip
def test_other_digits_invisible_characters_and_cut_off_keys_hide_nothing(
    usual: Finder, text: str, expected: str
) -> None:
    assert [text[span.start : span.end] for span in usual.find(text)] == [expected]


def test_a_weak_form_counts_only_near_its_word(usual: Finder) -> None:
    assert [s.entity for s in usual.find("my passport is J8369854")] == ["IN_PASSPORT"]
    assert usual.find("part J8369854") == []
    assert [s.entity for s in usual.find("SSN: 536904399")] == ["US_SSN"]
    assert usual.find("order 000904399") == []


def test_a_lone_half_of_a_surrogate_pair_is_read_past(usual: Finder) -> None:
    assert [s.entity for s in usual.find("\ud83d jo@example.com")] == ["EMAIL_ADDRESS"]


def test_weakening_a_pattern_drops_what_the_scan_cannot_say() -> None:
    import re2

    for pattern, text in [
        (r"(?<!\w)a\b(?=c)b{2,3}", "abb"),
        (r"(?<=key: )\S{4,}", "key: abcd"),
        (r"(a|b)x\1", "axa"),
        (r"a(?:(?<=a)b)", "ab"),
        (r"x{3,400}", "xxx"),
    ]:
        assert re2.search(relax(pattern, ignore_case=False), text), pattern
    assert not re2.search(relax(r"(?<=key: )\S{4,}", ignore_case=False), "kex: abcd")


def test_names_of_entities_are_stable_sets() -> None:
    assert (*RULES, *NAMES) == ENTITIES
    assert set(DEFAULTS) < set(ENTITIES)
    assert set(NAMES).isdisjoint(DEFAULTS)
    assert {"CREDIT_CARD", "AWS_ACCESS_KEY", "PASSWORD", "PRIVATE_KEY"} < SECRETS < set(DEFAULTS)


def test_a_mask_shows_only_the_ends() -> None:
    assert mask("jo@example.com") == "j************m"
    assert mask("1.2.3") == "*****"


def test_finding_personal_data_loads_no_torch_and_asks_no_network() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import ftplatform.data.pii.scrubber as pii\n"
        "assert not {'presidio_analyzer', 're2'} & set(sys.modules), 'heavy at import'\n"
        "from ftplatform.data.pii.find import Finder\n"
        "assert len(Finder(pii.DEFAULTS).find('jo@example.com, +1 212 555 0147')) == 2\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
