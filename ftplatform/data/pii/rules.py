"""Which personal data and secrets are looked for, and the presidio recognizer of each.

Names are presidio's where it has one. A rule that is not ``on`` works when ``pii.entities`` names its entity: plain
digits with one check digit, one number in ten of which passes by chance, would eat order numbers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from ftplatform.data.pii.email import address_windows
from ftplatform.data.pii.own import OWN
from ftplatform.data.pii.phone import NUMBER, find_phones
from ftplatform.data.pii.prefilter import relax

LEAST_SCORE = 0.4
"""Presidio's confidence below which a match does not count; a phone number without context has 0.4, nine bare digits
0.05. Presidio gives the same score to a weak match when a word of the recognizer's stands near."""


@dataclass(frozen=True, slots=True)
class Rule:
    entity: str
    recognizer: str = ""
    """Class of ``presidio_analyzer.predefined_recognizers``; empty: a pattern of ``pii_own``."""
    on: bool = True
    secret: bool = False
    """A key, a token, a card number: must never be learned, whatever a tenant allows for other entities."""
    near: bool = False
    """Weak matches count as well when one of the recognizer's context words stands up to five words before."""


_RULES = (
    Rule("EMAIL_ADDRESS", "EmailRecognizer"),
    Rule("PHONE_NUMBER", "PhoneRecognizer"),
    Rule("CREDIT_CARD", "CreditCardRecognizer", secret=True),
    Rule("IBAN_CODE", "IbanRecognizer"),
    Rule("IP_ADDRESS", "IpRecognizer"),
    Rule("MAC_ADDRESS", "MacAddressRecognizer", on=False),
    Rule("CRYPTO", "CryptoRecognizer"),
    *(Rule(entity, secret=own.secret, on=own.on) for entity, own in OWN.items()),
    Rule("US_SSN", "UsSsnRecognizer", near=True),
    Rule("US_ITIN", "UsItinRecognizer"),
    Rule("US_MBI", "UsMbiRecognizer"),
    Rule("UK_NINO", "UkNinoRecognizer"),
    Rule("UK_DRIVING_LICENCE", "UkDrivingLicenceRecognizer"),
    Rule("UK_NHS", "NhsRecognizer", on=False),
    Rule("CA_SIN", "CaSinRecognizer", on=False),
    Rule("AU_TFN", "AuTfnRecognizer", on=False),
    Rule("AU_ABN", "AuAbnRecognizer", on=False),
    Rule("DE_TAX_ID", "DeTaxIdRecognizer", on=False),
    Rule("DE_SOCIAL_SECURITY", "DeSocialSecurityRecognizer"),
    Rule("ES_NIF", "EsNifRecognizer"),
    Rule("ES_NIE", "EsNieRecognizer"),
    Rule("IT_FISCAL_CODE", "ItFiscalCodeRecognizer"),
    Rule("FI_PERSONAL_IDENTITY_CODE", "FiPersonalIdentityCodeRecognizer"),
    Rule("PL_PESEL", "PlPeselRecognizer", on=False),
    Rule("SE_PERSONNUMMER", "SePersonnummerRecognizer"),
    Rule("TR_NATIONAL_ID", "TrNationalIdRecognizer"),
    Rule("SG_NRIC_FIN", "SgFinRecognizer"),
    Rule("KR_RRN", "KrRrnRecognizer"),
    Rule("TH_TNIN", "ThTninRecognizer", on=False),
    Rule("ZA_ID_NUMBER", "ZaIdNumberRecognizer"),
    Rule("IN_AADHAAR", "InAadhaarRecognizer"),
    Rule("IN_PAN", "InPanRecognizer"),
    Rule("IN_GSTIN", "InGstinRecognizer"),
    Rule("IN_VOTER", "InVoterRecognizer"),
    Rule("IN_PASSPORT", "InPassportRecognizer", near=True),
    Rule("IN_VEHICLE_REGISTRATION", "InVehicleRegistrationRecognizer"),
)
RULES: dict[str, Rule] = {rule.entity: rule for rule in _RULES}
NAMES: tuple[str, ...] = ("PERSON", "LOCATION", "ORGANIZATION")
"""What a model at ``pii.ner_model`` finds; no rule does."""


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
    """Entity -> presidio recognizer. Imported at first use: it takes a second."""
    with _without_torch():
        import presidio_analyzer.predefined_recognizers as known
        from presidio_analyzer import Pattern, PatternRecognizer, RecognizerResult
        from tldextract import TLDExtract

    # The default extractor fetches the public suffix list at first use; this one reads the snapshot it ships with.
    suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class EmailRecognizer(known.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).fqdn)

        def analyze(self, text: str, *args: Any, **kwargs: Any) -> list[RecognizerResult]:
            found = []
            for start, end in address_windows(text):
                for result in super().analyze(text[start:end], *args, **kwargs):
                    result.start, result.end = result.start + start, result.end + start
                    found.append(result)
            return found

    class PhoneRecognizer(known.PhoneRecognizer):
        def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
            return [RecognizerResult("PHONE_NUMBER", start, end, self.SCORE) for start, end in find_phones(text)]

    class OwnRecognizer(PatternRecognizer):
        def validate_result(self, pattern_text: str) -> bool | None:
            return check(pattern_text) if (check := OWN[self.supported_entities[0]].check) else None

    ours = {"EmailRecognizer": EmailRecognizer, "PhoneRecognizer": PhoneRecognizer}
    recognizers: dict[str, Any] = {}
    for rule in _RULES:
        if rule.recognizer:
            recognizers[rule.entity] = (ours.get(rule.recognizer) or getattr(known, rule.recognizer))()
        else:
            # Keys are case-sensitive: presidio's default of ignoring case would find them in ordinary words.
            own = Pattern(rule.entity.lower(), OWN[rule.entity].pattern, OWN[rule.entity].score)
            recognizers[rule.entity] = OwnRecognizer(rule.entity, patterns=[own], global_regex_flags=int(re.DOTALL))
    return recognizers


@cache
def context_words(entity: str) -> str:
    """A pattern of the words that make the recognizer's weak matches count; letter case does not matter."""
    words = sorted({word.lower() for word in load_recognizers()[entity].context})
    return "(?:" + "|".join(re.escape(word) for word in words) + ")"


def conditions(entities: Sequence[str]) -> list[list[list[str]]]:
    """For each entity what a folded text must contain, for ``pii_prefilter.open_prefilter``: weaker than its
    recognizer by construction."""
    return [_condition(RULES[entity]) for entity in entities]


def _condition(rule: Rule) -> list[list[str]]:
    if rule.entity == "PHONE_NUMBER":
        return [[relax(NUMBER, ignore_case=False)]]
    recognizer = load_recognizers()[rule.entity]
    from presidio_analyzer import PatternRecognizer  # after load_recognizers, which keeps torch out

    # A check digit can lift a weak pattern to certainty; without one a pattern keeps its score.
    lifts = type(recognizer).validate_result is not PatternRecognizer.validate_result
    ignore_case = bool(recognizer.global_regex_flags & re.IGNORECASE)
    alternatives = []
    for pattern in recognizer.patterns:
        needed = relax(pattern.regex, ignore_case)
        if lifts or pattern.score >= LEAST_SCORE:
            alternatives.append([needed])
        elif rule.near:
            alternatives.append([needed, f"(?i:{context_words(rule.entity)})"])
    return alternatives
