"""A teacher behind an OpenAI-compatible endpoint: bounded calls at a time, retries, nothing asked twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from ftplatform.core.errors import InvalidConfig, PayloadFailed
from ftplatform.data.synthetic.rows import Answer, Call

AT_A_TIME = 4
BATCH = 32
"""Calls between two saves: what a killed run loses at most."""
ATTEMPTS = 5
LONGEST_WAIT = 60.0
TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
HOPELESS = {401, 402, 403, 404, 405}
"""Answers that every other call would get too: key, money, address or model are wrong."""


class NoAnswer(Exception):
    """One call got no answer; the others may. ``down`` says that the teacher, and not the call, is the reason."""

    def __init__(self, reason: str, *, down: bool = False) -> None:
        super().__init__(reason)
        self.down = down


class Teacher:
    """``client`` and ``sleep`` are replaced by tests. Redirects are not followed: the address was allowed, not where it points."""

    def __init__(
        self,
        url: str,
        key: str | None,
        client: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = client or httpx.Client(timeout=httpx.Timeout(10.0, read=300.0))
        self._sleep = sleep

    def ask(self, call: Call) -> Answer:
        """Raises NoAnswer for this call, InvalidConfig where no call would succeed."""
        reason = ""
        for attempt in range(ATTEMPTS):
            wait = min(2.0**attempt, LONGEST_WAIT)
            try:
                found = self._client.post(self._url, json=call.body, headers=self._headers)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__} {error}".strip()
            else:
                if found.status_code == 200:
                    return _read(found)
                reason = f"HTTP {found.status_code}: {found.text[:200]}"
                if found.status_code in HOPELESS:
                    raise InvalidConfig(f"the teacher at {self._url} refuses model {call.body['model']!r}: {reason}")
                if found.status_code not in TRY_AGAIN:
                    raise NoAnswer(reason)
                asked = found.headers.get("retry-after", "")
                wait = min(float(asked), LONGEST_WAIT) if asked.isdigit() else wait
            if attempt + 1 < ATTEMPTS:
                self._sleep(wait)
        raise NoAnswer(f"{ATTEMPTS} attempts, the last one: {reason}", down=True)


def _read(found: httpx.Response) -> Answer:
    try:
        choice = found.json()["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason") or ""
    except (ValueError, LookupError, TypeError) as error:
        raise NoAnswer(f"no chat completion: {found.text[:200]}") from error
    if not isinstance(text, str):
        raise NoAnswer(f"no text in the answer, finish_reason {finish!r}")
    return Answer(text, finish)


def ask_all(
    calls: Sequence[Call],
    teacher: Teacher,
    known: Mapping[int, Answer],
    save: Callable[[dict[int, Answer]], None],
) -> dict[int, Answer | str]:
    """Every call's answer, or the reason why it has none.

    Calls in ``known`` are not made. ``save`` gets the answers of each batch, so that a run that is killed goes on where it was.

    Raises:
        InvalidConfig: the teacher refuses every call.
        PayloadFailed: a whole batch got no answer; a retry can help, and asks only what is missing.
    """

    def one(call: Call) -> Answer | NoAnswer:
        try:
            return teacher.ask(call)
        except NoAnswer as error:
            return error

    found: dict[int, Answer | str] = dict(known)
    missing = [call for call in calls if call.number not in known]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            answers = dict(zip((call.number for call in batch), pool.map(one, batch), strict=True))
            good = {number: answer for number, answer in answers.items() if isinstance(answer, Answer)}
            if good:
                save(good)
            elif all(isinstance(answer, NoAnswer) and answer.down for answer in answers.values()):
                raise PayloadFailed(
                    f"the teacher answered none of {len(batch)} calls in a row; the last one: {answers[batch[-1].number]}. "
                    f"{len(missing) - start} calls are left; the answers before them are kept",
                    retry_helps=True,
                )
            found |= {number: a if isinstance(a, Answer) else str(a) for number, a in answers.items()}
    return found
