"""Patterns presidio does not ship: keys and tokens by their issuers' published forms, UPI handles, the French number.

Each is a ``regex`` pattern, case-sensitive unless it says otherwise, and runs in presidio's own pattern recognizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Own:
    pattern: str
    score: float = 1.0
    """Secrets have the highest, so that a stretch which is also something else carries the secret's name."""
    secret: bool = True
    on: bool = True
    check: Callable[[str], bool] | None = None


_START, _END = r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_-])"
_BLOCK = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
# What a secret is called where it is set. A letter before it belongs to the name (``db_password``).
_NAMED = (
    r"(?i:pass(?:word|wd|phrase|code)|pwd|secret(?:[_-]?key)?|api[_-]?key|(?:auth|access)[_-]?token|"
    r"pa\u00dfwort|passwort|contrase\u00f1a|mot de passe)"
)
# Quotes may be escaped: JSON inside JSON.
_SET = _NAMED + r"(?:\\?[\"'])?[ \t]{0,3}[:=][ \t]{0,3}"


def _is_nir(found: str) -> bool:
    """INSEE: the key is 97 minus the number modulo 97; Corsica's 2A and 2B count as 19 and 18."""
    digits = found.replace(" ", "").upper().replace("2A", "19").replace("2B", "18")
    return 97 - int(digits[:13]) % 97 == int(digits[13:])


def _is_mixed(found: str) -> bool:
    """Whether a word is more likely drawn than written: a digit, and a letter or sign, and no placeholder."""
    return bool(re.search(r"\d", found)) and bool(re.search(r"[^\d.,:/-]", found))


# Handles of UPI payment providers (NPCI's list of third-party apps and the large banks' own).
_UPI = (
    "okaxis|okhdfcbank|okicici|oksbi|ybl|ibl|axl|paytm|ptyes|ptaxis|pthdfc|ptsbi|apl|yapl|rapl|upi|sbi|hdfcbank|icici|"
    "axisbank|axisb|kotak|kotak811|barodampay|cnrb|pnb|unionbank|indus|idfcbank|idfcfirst|idbi|federal|fbl|rbl|yesbank|"
    "yesbankltd|hsbc|dbs|freecharge|jupiteraxis|fam|slice|airtel|postbank|kbl|kvb|aubank|citi|ikwik|waaxis|wahdfcbank|"
    "waicici|wasbi|myicici|naviaxis|yescred|axiscred|tapicici|superyes|timecosmos|pockets|mahb|uco|iob|boi|centralbank"
)

OWN: dict[str, Own] = {
    "AWS_ACCESS_KEY": Own(rf"{_START}A(?:KIA|SIA)[A-Z0-9]{{16}}{_END}"),
    "AWS_SECRET_KEY": Own(
        r"(?<=(?i:aws|amazon|secret)[^\n]{0,60}?[^A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])", check=_is_mixed
    ),
    "JWT": Own(rf"{_START}eyJ[A-Za-z0-9_-]{{8,}}\.eyJ[A-Za-z0-9_-]{{8,}}\.[A-Za-z0-9_-]{{8,}}"),
    # A block that was cut off is still a secret up to the end of the text, or to where it stops looking like one.
    "PRIVATE_KEY": Own(
        rf"-----BEGIN {_BLOCK}(?:(?:(?!-----BEGIN ).)*?-----END {_BLOCK}|(?:\s|\\n|[A-Za-z0-9+/=:,-]{{20,}}|[A-Z][A-Za-z-]+: [^\n]*\n|[A-Za-z0-9+/=]+\s*\Z)*)"
    ),
    "GITHUB_TOKEN": Own(rf"{_START}(?:gh[pousr]_[A-Za-z0-9]{{36,255}}|github_pat_[A-Za-z0-9_]{{50,255}}){_END}"),
    "GITLAB_TOKEN": Own(rf"{_START}gl(?:pat|ptt|dt|rt|cbt|soat)-[A-Za-z0-9_-]{{20,}}"),
    "SLACK_TOKEN": Own(
        rf"{_START}xox[abeprs]-[A-Za-z0-9-]{{10,}}|https://hooks\.slack\.com/services/[A-Za-z0-9/]{{20,}}"
    ),
    "OPENAI_KEY": Own(
        rf"{_START}sk-(?:(?:proj|svcacct|admin|ant-[a-z]+\d*)-[A-Za-z0-9_-]{{20,}}|[A-Za-z0-9]{{40,}}{_END})"
    ),
    "HF_TOKEN": Own(rf"{_START}hf_[A-Za-z0-9]{{30,}}{_END}"),
    "GOOGLE_API_KEY": Own(rf"{_START}AIza[A-Za-z0-9_-]{{35}}{_END}"),
    "STRIPE_KEY": Own(rf"{_START}(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{{16,}}|{_START}whsec_[A-Za-z0-9]{{24,}}"),
    "NPM_TOKEN": Own(rf"{_START}npm_[A-Za-z0-9]{{36}}{_END}"),
    "BEARER_TOKEN": Own(r"(?<=(?i:bearer)[ \t]{1,3})[A-Za-z0-9._~+/-]{20,}=*", check=_is_mixed),
    "URL_CREDENTIALS": Own(r"(?<=[a-z]://)[^\s:/@<>\"']{1,64}:[^\s@/<>\"']{1,128}(?=@)"),
    "PASSWORD": Own(
        rf"(?<={_SET}\\?\")[^\s\"\\]{{6,128}}|(?<={_SET}')[^\s'\\]{{6,128}}|(?<={_SET})[^\s\"'\\<>,;()\[\]{{}}]{{6,128}}",
        check=_is_mixed,
    ),
    "IN_UPI": Own(rf"(?<![\w.@+-])[A-Za-z0-9][A-Za-z0-9._-]{{1,63}}@(?i:{_UPI})(?![\w@-]|\.\w)", 0.9, secret=False),
    # Presidio's phone numbers of India have +91 or a leading 0; ten bare digits are as often an order number.
    "IN_MOBILE": Own(r"(?<![\w+-])[6-9]\d{4}[ -]?\d{5}(?![\w-])", 0.5, secret=False, on=False),
    "FR_NIR": Own(
        r"(?<![\dA-Z])[12] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?!\d)",
        secret=False,
        check=_is_nir,
    ),
}
