"""What stands in the place of a finding: a placeholder, stars, or a pseudonym."""

from __future__ import annotations

import hashlib
import hmac
import re
import string
from collections.abc import Callable
from functools import lru_cache

from ftplatform.data.pii.fold import fold
from ftplatform.data.pii.rules import NAMES, RULES

_TRIES = 64
_NAME_WORDS = {"PERSON": "Person", "LOCATION": "Place", "ORGANIZATION": "Company"}

# '#' is a digit, '?' a hexadecimal one, '%' a letter. Each form is reserved or cannot exist, so it is never somebody's: RFC 2606's
# ``.invalid``; no area code 555; social security numbers never begin with 000; no insurance number with QQ.
_FORMS = {
    "EMAIL_ADDRESS": "user-????????@example.invalid",
    "IN_UPI": "user-????????@invalid",
    "PHONE_NUMBER": "+1-555-###-####",
    "IP_ADDRESS": "host-????????.example.invalid",
    "US_SSN": "000-##-####",
    "UK_NINO": "QQ######X",
    "SG_NRIC_FIN": "X#######X",
    "URL_CREDENTIALS": "user-%%%%%%%%",
    **{entity: f"{word}-????????" for entity, word in _NAME_WORDS.items()},
}
_SAME_SHAPE = frozenset(
    [
        "CREDIT_CARD",
        "IBAN_CODE",
        "US_ITIN",
        "UK_NHS",
        "CA_SIN",
        "AU_TFN",
        "AU_ABN",
        "DE_TAX_ID",
        "ES_NIF",
        "ES_NIE",
        "IT_FISCAL_CODE",
        "PL_PESEL",
        "SE_PERSONNUMMER",
        "TR_NATIONAL_ID",
        "KR_RRN",
        "TH_TNIN",
        "ZA_ID_NUMBER",
        "IN_AADHAAR",
        "IN_PAN",
        "IN_GSTIN",
        "FR_NIR",
    ]
)
"""Their pseudonyms keep the layout, and the check digit (or the letter that says what the number is) is wrong."""

_ALPHABETS = {
    "#": string.digits,
    "?": "0123456789abcdef",
    "%": string.ascii_lowercase,
    "^": string.ascii_uppercase,
    "_": string.ascii_lowercase,
}

_EXEMPT = re.compile("<(?:" + "|".join((*RULES, *NAMES)) + ")>|(?:" + "|".join(_NAME_WORDS.values()) + ")-[0-9a-f]{8}")
_LONGEST = max(map(len, (*RULES, *NAMES))) + 2


def mask(text: str) -> str:
    """First and last character, the rest as stars; never longer than 24 characters, and nothing of a short text."""
    return "*" * len(text) if len(text) < 6 else f"{text[0]}{'*' * min(22, len(text) - 2)}{text[-1]}"


def hidden(text: str, entity: str) -> str:
    """``mask``, which shows nothing at all of a secret."""
    rule = RULES.get(entity)
    return "*" * min(24, len(text)) if rule is not None and rule.secret else mask(text)


def is_stand_in(text: str, start: int, end: int) -> bool:
    """Whether the stretch lies inside a placeholder or an invented name: a model may take one for a name again."""
    return any(a <= start and end <= b for a, b in _stand_ins(text, start, end))


def whole_stand_ins(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch, and the rest of every placeholder it cuts through."""
    for a, b in _stand_ins(text, start, end):
        start, end = min(start, a), max(end, b)
    return start, end


def _stand_ins(text: str, start: int, end: int) -> list[tuple[int, int]]:
    around = _EXEMPT.finditer(text, max(0, start - _LONGEST), end + _LONGEST)
    return [found.span() for found in around if found.start() < end and start < found.end()]


class Pseudonyms:
    """The same invented value for the same one found, for who has the same ``secret``; nobody without it can tell
    which value it was made from.

    ``clean(text)`` says that nothing is found in a text. Values are drawn from HMAC-SHA512 until one is clean, so a
    pseudonym is never a finding itself.
    """

    def __init__(self, secret: bytes, clean: Callable[[str], bool]) -> None:
        self._secret = secret
        self._clean = clean
        self._made = lru_cache(maxsize=1 << 16)(self._make)

    def of(self, found: str, entity: str) -> str:
        return self._made(_normal(found, entity), _shape(found) if entity in _SAME_SHAPE else "", entity)

    def _make(self, value: str, shape: str, entity: str) -> str:
        key = f"{entity}\0{value}".encode("utf-8", "replace")
        # A secret's has no digit: behind ``password=`` a word with digits is a password.
        secret = entity in RULES and RULES[entity].secret
        plain = f"{entity.lower().replace('_', '-')}-{'%' * 12 if secret else '?' * 12}"
        forms = [form for form in (_FORMS.get(entity, shape), plain) if form]
        for form in forms:
            for attempt in range(_TRIES):
                drawn = _fill(form, hmac.new(self._secret, key + b"\0%d" % attempt, hashlib.sha512).digest())
                if entity in NAMES or self._clean(drawn):
                    return drawn
        raise AssertionError(f"no pseudonym of the form {plain} is free of findings")


def _normal(found: str, entity: str) -> str:
    """What two spellings of one value share."""
    text = fold(found).text.strip()
    if entity == "PHONE_NUMBER":
        return re.sub(r"\D", "", text)[-10:]  # with and without the country code
    if entity in ("EMAIL_ADDRESS", "IN_UPI", "IP_ADDRESS", *NAMES):
        return " ".join(text.casefold().split())
    rule = RULES.get(entity)
    return text if rule is not None and rule.secret and entity != "CREDIT_CARD" else re.sub(r"[\W_]", "", text).upper()


def _shape(found: str) -> str:
    return re.sub("[a-z]", "_", re.sub("[A-Z]", "^", re.sub("[0-9]", "#", fold(found).text)))


def _fill(form: str, drawn: bytes) -> str:
    stream = int.from_bytes(drawn, "big")
    out = []
    for character in form:
        alphabet = _ALPHABETS.get(character)
        if alphabet is None:
            out.append(character)
        else:
            stream, i = divmod(stream, len(alphabet))
            out.append(alphabet[i])
    return "".join(out)
