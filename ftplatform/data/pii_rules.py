"""Presidio's recognizers as this platform uses them, and the condition each finding must meet."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# A phone number needs seven digits: presidio's library takes four-digit German pager numbers for valid, and with them
# years like 1640. The same pattern therefore filters the recognizer's results and stands in front of it.
_SEVEN_DIGITS = r"\d(?:\D{0,4}\d){6}"

NEEDED: dict[str, str] = {
    "EMAIL_ADDRESS": r"@",
    "PHONE_NUMBER": _SEVEN_DIGITS,
    "CREDIT_CARD": r"\d{4}[- ]?\d{3,4}[- ]?\d{3,4}[- ]?\d{3}",
    "IBAN_CODE": r"[A-Z]{2}[0-9]{2}[ -]?[A-Z0-9]{4}",
    "IP_ADDRESS": r"\d\.\d{1,3}\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:",
    "US_SSN": r"\d{3}[- .]\d{2}[- .]\d{4}",
    "AWS_ACCESS_KEY": r"A(?:KIA|SIA)",
    "JWT": r"eyJ",
    "PRIVATE_KEY": r"PRIVATE KEY-----",
}
"""Entity -> what every text with such a finding contains."""

_OWN = {
    "AWS_ACCESS_KEY": r"(?<![A-Za-z0-9])A(?:KIA|SIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "JWT": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    # A block that was cut off is still a secret up to the end of the text.
    "PRIVATE_KEY": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----.*?(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----|\Z)",
}


@contextmanager
def _without_torch() -> Iterator[None]:
    """Presidio imports spaCy, which imports torch and transformers where they are installed: seconds and hundreds of
    megabytes that no rule needs, in processes that must not load them. Both imports are optional there."""
    hidden = [name for name in ("torch", "transformers") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@cache
def load_recognizers() -> dict[str, Any]:
    """Entity -> presidio recognizer. Imported at first use: it takes seconds, and clean data never needs it."""
    with _without_torch():
        import presidio_analyzer.predefined_recognizers as known
        from presidio_analyzer import Pattern, PatternRecognizer, RecognizerResult
        from tldextract import TLDExtract

    # The default extractor fetches the public suffix list at first use; this one reads the snapshot it ships with.
    suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class Email(known.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).fqdn)

    class Phone(known.PhoneRecognizer):
        def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
            found = super().analyze(text, entities, nlp_artifacts)
            return [r for r in found if re.search(_SEVEN_DIGITS, text[r.start : r.end])]

    recognizers: dict[str, Any] = {
        "EMAIL_ADDRESS": Email(),
        "PHONE_NUMBER": Phone(),
        "CREDIT_CARD": known.CreditCardRecognizer(),
        "IBAN_CODE": known.IbanRecognizer(),
        "IP_ADDRESS": known.IpRecognizer(),
        "US_SSN": known.UsSsnRecognizer(),
    }
    for entity, pattern in _OWN.items():
        # Keys are case-sensitive: presidio's default of ignoring case would find them in ordinary words.
        recognizers[entity] = PatternRecognizer(
            entity, patterns=[Pattern(entity.lower(), pattern, 0.9)], global_regex_flags=re.DOTALL
        )
    return recognizers
