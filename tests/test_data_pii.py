"""Planted personal data is found, all of it and nothing else, exactly where presidio finds it."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from ftplatform.core.dataset_config import PiiConfig
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.pii import ENTITIES, LEAST_SCORE, find, find_secrets, mask, merge, recognize, scrub, scrub_text
from ftplatform.data.pii_rules import load_recognizers

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"

PLANTED: list[tuple[str, dict[str, str]]] = [
    ("Write to jo.doe+x@example.com today", {"EMAIL_ADDRESS": "jo.doe+x@example.com"}),
    ("Escríbeme: ana@correo.com.mx.", {"EMAIL_ADDRESS": "ana@correo.com.mx"}),
    ("Call +1 212 555 0147 after five", {"PHONE_NUMBER": "+1 212 555 0147"}),
    ("my number is (212) 555-0147", {"PHONE_NUMBER": "(212) 555-0147"}),
    ("ring 020 7946 0958 please", {"PHONE_NUMBER": "020 7946 0958"}),
    ("WhatsApp +91 98765 43210", {"PHONE_NUMBER": "+91 98765 43210"}),
    ("card 4111 1111 1111 1111 was declined", {"CREDIT_CARD": "4111 1111 1111 1111"}),
    ("amex 378282246310005 works", {"CREDIT_CARD": "378282246310005"}),
    ("5500-0000-0000-0004 is lost", {"CREDIT_CARD": "5500-0000-0000-0004"}),
    ("pay to DE89 3704 0044 0532 0130 00 now", {"IBAN_CODE": "DE89 3704 0044 0532 0130 00"}),
    ("IBAN GB82WEST12345698765432", {"IBAN_CODE": "GB82WEST12345698765432"}),
    ("login from 192.168.17.4 failed", {"IP_ADDRESS": "192.168.17.4"}),
    ("host 2001:db8::ff00:42:8329 is down", {"IP_ADDRESS": "2001:db8::ff00:42:8329"}),
    ("SSN 536-90-4399 on file", {"US_SSN": "536-90-4399"}),
    ("key AKIAIOSFODNN7EXAMPLE leaked", {"AWS_ACCESS_KEY": "AKIAIOSFODNN7EXAMPLE"}),
    (f"Authorization: Bearer {JWT}", {"JWT": JWT}),
    (f"here:\n{KEY}\nthanks", {"PRIVATE_KEY": KEY}),
    ("-----BEGIN PRIVATE KEY-----\nMIIEow", {"PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\nMIIEow"}),
    (
        "jo@example.com or +1 212 555 0147",
        {"EMAIL_ADDRESS": "jo@example.com", "PHONE_NUMBER": "+1 212 555 0147"},
    ),
]
CLEAN = [
    "Where is my card? I ordered it on 2024-05-03 at 10:30.",
    "The total was 1,234.56 EUR, or 12 x 102.88.",
    "In 1640 and in 1648, about 30000 people lived there.",
    "Version 2.14.3 fixes std::vector and Foo::bar; ratio 3:2:1.",
    "@everyone see section 4.2.1 and footnote 12",
    "Order 48213 has 3 items, ticket #100234.",
    "AKIA is a prefix, eyJ too, and a PRIVATE KEY is private.",
    "The card ending 1111 was declined twice in 24 hours.",
    "<EMAIL_ADDRESS> called <PHONE_NUMBER>",
    "मेरा कार्ड कहाँ है?",
]


def row(text: str, answer: str = "ok") -> Row:
    return Row((Message("user", text, False), Message("assistant", answer)), "a.jsonl:1")


def found(text: str) -> dict[str, str]:
    return {span.entity: text[span.start : span.end] for span in find(text)}


def test_recall_and_precision_on_the_planted_set_are_one() -> None:
    expected = {(text, entity, what) for text, entities in PLANTED for entity, what in entities.items()}
    got = {(text, entity, what) for text in [*(t for t, _ in PLANTED), *CLEAN] for entity, what in found(text).items()}
    recall = len(expected & got) / len(expected)
    precision = len(expected & got) / len(got)
    assert (recall, precision) == (1.0, 1.0), (expected - got, got - expected)


def mixed_texts(count: int) -> list[str]:
    rng = random.Random(5)
    pieces = [t for t, _ in PLANTED] + CLEAN
    shards = [w for p in pieces for w in p.split()] + [
        "::",
        "1.2.3.4.5",
        "--",
        "(",
        "123",
        "99-1234",
        "a@b",
        "DE89",
        ":",
    ]
    texts = []
    for _ in range(count):
        text = rng.choice(["", " "]).join(rng.choices(shards, k=rng.randint(1, 9)))
        texts.append(text)
        texts.append("".join(rng.choices("0123456789 .-:@()+abfAKIey\n", k=30)))
    return pieces + texts


def test_the_pattern_in_front_never_hides_what_presidio_finds() -> None:
    for text in mixed_texts(400):
        unfiltered = merge([span for entity in ENTITIES for span in recognize(text, entity)])
        assert find(text) == unfiltered, text


def test_findings_are_those_of_presidios_own_engine() -> None:
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    registry = RecognizerRegistry(recognizers=list(load_recognizers().values()))
    engine = AnalyzerEngine(registry=registry, nlp_engine=NoOpNlpEngine([{"lang_code": "en", "model_name": "none"}]))
    for text in mixed_texts(60):
        theirs = engine.analyze(text, "en", score_threshold=LEAST_SCORE)
        ours = find(text)
        covered = {i for r in theirs for i in range(r.start, r.end)}
        assert {i for span in ours for i in range(span.start, span.end)} == covered, text


def test_scrubbing_leaves_nothing_and_twice_is_once() -> None:
    for text in mixed_texts(200):
        once, _ = scrub_text(text)
        assert find(once) == [], (text, once)
        assert scrub_text(once) == (once, [])


def test_scrub_counts_masks_and_keeps_clean_rows_as_they_are() -> None:
    rows = [row("mail jo@example.com and al@example.org", "call +1 212 555 0147"), row("clean")]
    scrubbed, counts, examples = scrub(rows, PiiConfig())
    assert [m.content for m in scrubbed[0].messages] == [
        "mail <EMAIL_ADDRESS> and <EMAIL_ADDRESS>",
        "call <PHONE_NUMBER>",
    ]
    assert [m.train for m in scrubbed[0].messages] == [False, True]
    assert scrubbed[1] is rows[1]
    assert counts == {"EMAIL_ADDRESS": 2, "PHONE_NUMBER": 1}
    assert all("example" not in e["found"] and "212" not in e["found"] for e in examples)
    assert len(find_secrets(rows, PiiConfig())) == 3
    assert find_secrets(scrubbed, PiiConfig()) == []


def test_allowed_entities_stay_and_off_looks_for_nothing() -> None:
    rows = [row("jo@example.com +1 212 555 0147")]
    scrubbed, counts, _ = scrub(rows, PiiConfig(allow=("PHONE_NUMBER",)))
    assert scrubbed[0].messages[0].content == "<EMAIL_ADDRESS> +1 212 555 0147"
    assert counts == {"EMAIL_ADDRESS": 1}
    assert scrub(rows, PiiConfig(policy="off"))[0] == rows
    with pytest.raises(InvalidConfig, match="PHONE_NUMBER"):
        scrub(rows, PiiConfig(allow=("PHONE",)))


def test_a_mask_shows_only_the_ends() -> None:
    assert mask("jo@example.com") == "j************m"
    assert mask("1.2.3") == "*****"


def test_finding_personal_data_loads_no_torch_and_asks_no_network() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from ftplatform.data.pii import scrub_text\n"
        "assert scrub_text('jo@example.com')[0] == '<EMAIL_ADDRESS>'\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
