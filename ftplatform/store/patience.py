"""Waiting for what is away for a while: the same call again, later each time, until it works or patience ends.

Only errors that say "not now" are waited for. A refused key, a missing object or a full disk stay what they are: waiting
would hide them for a quarter of an hour.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ftplatform.store.base import Blobs

Value = TypeVar("Value")

PATIENCE = 900.0
"""Seconds a store may be away before a payload gives up; its checkpoints stay, so a later attempt loses little."""
_FIRST, _LONGEST = 0.5, 15.0
"""Seconds before the second try, and at most between two: doubling (AWS, "Exponential backoff and jitter", 2015)."""
_AWAY = {
    errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN,
    errno.ETIMEDOUT, errno.ESTALE, errno.EREMOTEIO,
}  # fmt: skip
"""How a network and a network file system say it."""
_CLIENT = {
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError",
    "ProxyConnectionError", "ResponseStreamingError", "IncompleteReadError", "IncompleteRead", "ProtocolError",
}  # fmt: skip
"""botocore's and urllib3's, by name: a control plane without boto3 loads this module too."""
_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "InternalError", "ServiceUnavailable"}
_JITTER = random.SystemRandom()
"""A source of its own: drawing from the global one would change a training's random numbers."""


def is_away(error: BaseException) -> bool:
    """Whether ``error``, or what caused it, says that a store cannot be reached or is too busy at the moment."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ in _CLIENT or isinstance(seen, (ConnectionError, TimeoutError)):
            return True
        if isinstance(seen, OSError) and seen.errno in _AWAY:
            return True
        answer = getattr(seen, "response", None)
        if isinstance(answer, dict):
            code = answer.get("Error", {}).get("Code", "")
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _CODES or status == 429 or status >= 500:
                return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def patiently(
    call: Callable[[], Value],
    say: Callable[[str], object],
    *,
    what: str = "the store",
    seconds: float = PATIENCE,
    away: Callable[[BaseException], bool] = is_away,
) -> Value:
    """``call()``, again and again while it fails by an error that ``away`` accepts, for at most ``seconds``.

    Every further try is told to ``say``, which is a payload's sign of life as well. The last error is raised as it is.
    """
    begun, pause = time.monotonic(), _FIRST
    while True:
        try:
            return call()
        except Exception as error:
            left = seconds - (time.monotonic() - begun)
            if left <= 0 or not away(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else ""
            say(f"{what} is away, trying again for {left:.0f} s ({type(error).__name__}: {reason})")
        time.sleep(min(left, pause * _JITTER.uniform(0.5, 1.0)))
        pause = min(pause * 2, _LONGEST)


class PatientBlobs:
    """``blobs`` with every operation repeated while the storage is away; each may be repeated without harm."""

    def __init__(self, blobs: Blobs, say: Callable[[str], object], seconds: float = PATIENCE) -> None:
        self._blobs, self._say, self._seconds = blobs, say, seconds

    def put(self, name: str, data: bytes) -> None:
        self._try(lambda: self._blobs.put(name, data))

    def put_path(self, name: str, path: Path) -> None:
        self._try(lambda: self._blobs.put_path(name, path))

    def get(self, name: str) -> bytes:
        return self._try(lambda: self._blobs.get(name))

    def part(self, name: str, start: int, size: int) -> bytes:
        return self._try(lambda: self._blobs.part(name, start, size))

    def get_path(self, name: str) -> Path:
        return self._try(lambda: self._blobs.get_path(name))

    def exists(self, name: str) -> bool:
        return self._try(lambda: self._blobs.exists(name))

    def list(self, prefix: str) -> Iterator[str]:
        return iter(self._try(lambda: [*self._blobs.list(prefix)]))

    def delete(self, name: str) -> None:
        self._try(lambda: self._blobs.delete(name))

    def _try(self, call: Callable[[], Value]) -> Value:
        return patiently(call, self._say, seconds=self._seconds)
