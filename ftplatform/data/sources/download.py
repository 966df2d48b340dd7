"""Downloads files named by web addresses, whole or not at all.

Only the command line calls this, on the user's own machine. A control plane that fetches addresses customers send would be their
door into its network (metadata services, databases, other tenants' servers), so no sensor, asset or API does.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from ftplatform.core.errors import CorruptObject, InvalidConfig, NotFound

MAX_BYTES = 50 * 10**9
MAX_REDIRECTS = 5
ATTEMPTS = 5
LONGEST_WAIT = 60.0
"""Seconds between two attempts, whatever the server asks for."""
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_SAFE_NAME = re.compile(r"[\w][\w .@+=()-]{0,199}")


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file's name: the last part of the path."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])


def is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def parse_address(text: str, where: str) -> Address:
    """``URL`` or ``URL sha256=HEX``.

    Raises:
        InvalidConfig: anything else, or an address whose path does not end in the name of a file.
    """
    url, *options = text.split()
    sha256 = None
    for option in options:
        match = re.fullmatch(r"sha256=([0-9A-Fa-f]{64})", option)
        if match is None:
            raise InvalidConfig(f"{where}: {option!r}; accepted after an address is sha256= and 64 hexadecimal digits")
        sha256 = match[1].lower()
    address = Address(url, sha256)
    if not is_address(url) or not urlsplit(url).hostname:
        raise InvalidConfig(f"{where}: {url!r}; accepted are addresses that start with http:// or https://")
    if not _SAFE_NAME.fullmatch(address.name):
        raise InvalidConfig(f"{where}: {url!r} does not end in the name of a file, such as .../train.jsonl")
    return address


def read_list(path: Path) -> list[Address]:
    """One address a line, empty lines and lines that start with ``#`` aside.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: a line that is no address, by number; or no address at all.
    """
    if not path.is_file():
        raise NotFound(f"no such list of addresses: {path}")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    found = [
        parse_address(line.strip(), f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    if not found:
        raise InvalidConfig(f"{path}: no address in it; accepted is one per line, optionally with sha256=HEX")
    return found


def download(
    address: Address,
    folder: Path,
    *,
    max_bytes: int = MAX_BYTES,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
    client: httpx.Client | None = None,
) -> Path:
    """Fetch ``address`` into ``folder`` and return the file, named as in the address.

    Streamed to disk. A broken transfer goes on where it stopped when the server supports ranges and the file is the same one
    (``If-Range``), else starts again. Busy servers are asked again with growing waits, or as ``Retry-After`` says.

    Raises:
        NotFound: the server does not have it, or refuses it.
        InvalidConfig: larger than ``max_bytes``, too many redirects, or a redirect that leaves https.
        CorruptObject: the bytes are not those of ``sha256``, or the server could not be reached in ``attempts`` attempts.
    """
    if client is None:
        timeout = httpx.Timeout(30.0, read=60.0)
        with httpx.Client(timeout=timeout, max_redirects=MAX_REDIRECTS, follow_redirects=True) as own:
            return download(address, folder, max_bytes=max_bytes, attempts=attempts, sleep=sleep, client=own)
    part = folder / f"{address.name}.part"
    validator, reason = "", ""
    for attempt in range(attempts):
        try:
            with client.stream("GET", address.url, headers=_headers(part, validator)) as answer:
                _check_redirects(address, answer)
                if answer.status_code == 416:
                    raise _Broken("the server cannot go on at that position", "")
                if answer.status_code in TRY_AGAIN:
                    reason, wait = f"HTTP {answer.status_code}", _wait(answer, attempt)
                else:
                    _check_status(address, answer)
                    _save(address, answer, part, max_bytes)
                    return _finish(address, part, folder / address.name)
        except httpx.TooManyRedirects as error:
            raise InvalidConfig(
                f"{address.url}: more than {MAX_REDIRECTS} redirects; give the final address"
            ) from error
        except _Broken as broken:
            reason, validator, wait = str(broken), broken.validator, min(2.0**attempt, LONGEST_WAIT)
        except httpx.TransportError as error:
            reason, wait = f"{type(error).__name__} {error}".strip(), min(2.0**attempt, LONGEST_WAIT)
        if attempt + 1 < attempts:
            sleep(wait)
    raise CorruptObject(
        f"{address.url}: not fetched in {attempts} attempts, the last one ended in: {reason}", retry_helps=True
    )


class _Broken(Exception):
    """A transfer that stopped midway; ``validator`` says which file it was."""

    def __init__(self, reason: str, validator: str) -> None:
        super().__init__(reason)
        self.validator = validator


def _headers(part: Path, validator: str) -> dict[str, str]:
    # A compressed transfer could not go on at a position of the file.
    headers = {"Accept-Encoding": "identity"}
    if validator and part.is_file():
        headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": validator}
    return headers


def _check_redirects(address: Address, answer: httpx.Response) -> None:
    if address.url.startswith("https://") and answer.url.scheme != "https":
        raise InvalidConfig(f"{address.url} redirects to {answer.url}, which is not encrypted; refused")


def _check_status(address: Address, answer: httpx.Response) -> None:
    if answer.status_code not in (200, 206):
        raise NotFound(
            f"{address.url}: the server answered {answer.status_code} {answer.reason_phrase}; accepted is 200"
        )


def _save(address: Address, answer: httpx.Response, part: Path, max_bytes: int) -> None:
    """Append the body (206) or write it anew (200)."""
    tag = answer.headers.get("etag", "")
    validator = tag if tag and not tag.startswith("W/") else answer.headers.get("last-modified", "")
    resumed = answer.status_code == 206
    size = part.stat().st_size if resumed else 0
    if resumed and not answer.headers.get("content-range", "").startswith(f"bytes {size}-"):
        raise _Broken(f"the server sent another range than the one from {size}", "")
    length = answer.headers.get("content-length")
    expected = size + int(length) if length is not None else None
    if expected is not None and expected > max_bytes:
        raise _too_large(address, expected, max_bytes)
    try:
        with part.open("ab" if resumed else "wb") as stream:
            # Without a block size: blocks that are still being filled would be lost when the transfer breaks.
            for block in answer.iter_raw():
                size += len(block)
                if size > max_bytes:
                    raise _too_large(address, size, max_bytes)
                stream.write(block)
    except httpx.TransportError as error:
        raise _Broken(f"broke off after {size} bytes: {error}", validator) from error
    if expected is not None and size != expected:
        raise _Broken(f"ended after {size} of {expected} bytes", validator)


def _too_large(address: Address, size: int, max_bytes: int) -> InvalidConfig:
    return InvalidConfig(
        f"{address.url}: {size} bytes or more, accepted are {max_bytes}; raise --max-gb if it is meant"
    )


def _finish(address: Address, part: Path, target: Path) -> Path:
    if address.sha256 is not None:
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != address.sha256:
            part.unlink()
            raise CorruptObject(f"{address.url}: SHA-256 of what came is {found}, accepted is {address.sha256}")
    return part.replace(target)


def _wait(answer: httpx.Response, attempt: int) -> float:
    """Seconds: what the server asks for, else doubling from one."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked) if asked.isdigit() else 2.0**attempt, LONGEST_WAIT)
