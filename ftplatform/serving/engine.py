"""The engine port: what the control plane asks of any inference engine, and the client of one over HTTP.

vLLM's paths: POST ``/v1/load_lora_adapter``, POST ``/v1/unload_lora_adapter``, GET ``/v1/models``, POST
``/v1/completions``. An engine that does not answer is an ordinary state of a cluster, so every call may return
`EngineAway`, which the caller has to tell apart from an answer; whatever the engine refuses is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from ftplatform.core.errors import Conflict, FtError, InvalidConfig, NotFound
from ftplatform.serving.desired import Kind
from ftplatform.serving.fingerprint import TOLERANCE, ProbeResult, check_fingerprint, verify


@dataclass(frozen=True, slots=True)
class EngineAway:
    """The engine could not be asked, or is too busy to say; nothing is known about what it holds. Asking again later
    helps.
    """

    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class EngineModel:
    """One entry of the engine's list; ``root`` is what it was loaded from, ``parent`` the base of an adapter."""

    name: str
    root: str | None
    parent: str | None


@dataclass(frozen=True, slots=True)
class Done:
    message: str


class Engine(Protocol):
    def models(self) -> list[EngineModel] | EngineAway: ...

    def load(
        self,
        name: str,
        kind: Kind,
        weights_tree: str,
        base_weights: str,
        *,
        template: str | None = None,
        fingerprint: str | None = None,
    ) -> Done | EngineAway:
        """Serve the tree ``weights_tree`` under ``name``.

        Raises:
            Conflict: the name is taken (``retry_helps`` is False).
            NotFound: the engine does not find the bytes.
            InvalidConfig: the engine cannot serve such an adapter.
        """

    def unload(self, name: str) -> Done | EngineAway:
        """Stop serving ``name``; answers under way are finished first.

        Raises:
            NotFound: nothing of that name is loaded.
        """

    def probe(self, name: str, fingerprint: Mapping[str, Any]) -> ProbeResult | EngineAway:
        """Ask ``name`` for the fingerprint's continuation and compare.

        Raises:
            NotFound: nothing of that name is loaded.
            InvalidConfig: ``fingerprint`` has another form.
        """


class HttpEngine:
    """An engine at ``url`` (``http://host:port``); ``timeout`` in seconds covers a load of a large model."""

    def __init__(
        self, url: str, *, tolerance: float = TOLERANCE, timeout: float = 300.0, client: httpx.Client | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._tolerance = tolerance
        # trust_env=False: a proxy from the environment must never see, or answer for, the engine.
        self._client = client or httpx.Client(timeout=httpx.Timeout(timeout, connect=5.0), trust_env=False)

    def models(self) -> list[EngineModel] | EngineAway:
        answer = self._ask("GET", "/v1/models")
        if isinstance(answer, EngineAway):
            return answer
        return [EngineModel(m["id"], m.get("root"), m.get("parent")) for m in answer.json()["data"]]

    def load(
        self,
        name: str,
        kind: Kind,
        weights_tree: str,
        base_weights: str,
        *,
        template: str | None = None,
        fingerprint: str | None = None,
    ) -> Done | EngineAway:
        body = {
            "lora_name": name,
            "lora_path": f"tree:{weights_tree}",
            "kind": kind,
            "base_weights": f"tree:{base_weights}",
        }
        answer = self._ask("POST", "/v1/load_lora_adapter", {**body, "template": template, "fingerprint": fingerprint})
        return answer if isinstance(answer, EngineAway) else Done(answer.text)

    def unload(self, name: str) -> Done | EngineAway:
        answer = self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        return answer if isinstance(answer, EngineAway) else Done(answer.text)

    def probe(self, name: str, fingerprint: Mapping[str, Any]) -> ProbeResult | EngineAway:
        check_fingerprint(fingerprint)
        body = {
            "model": name, "prompt": list(fingerprint["prompt_ids"]), "max_tokens": len(fingerprint["token_ids"]),
            "temperature": 0, "logprobs": 1, "ignore_eos": True, "return_token_ids": True,
        }  # fmt: skip
        answer = self._ask("POST", "/v1/completions", body)
        if isinstance(answer, EngineAway):
            return answer
        value = answer.json()
        if value["model"] != name:
            return ProbeResult(False, float("inf"), f"asked {name}, {value['model']} answered")
        choice = value["choices"][0]
        return verify(fingerprint, choice["token_ids"], choice["logprobs"]["token_logprobs"], self._tolerance)

    def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response | EngineAway:
        try:
            answer = self._client.request(method, self._url + path, json=body)
        except httpx.TransportError as error:
            return EngineAway(self._url, f"{method} {path}: {type(error).__name__}: {error}")
        if answer.is_success:
            return answer
        if answer.status_code in (429, 502, 503, 504):
            return EngineAway(self._url, f"{method} {path}: HTTP {answer.status_code}: {answer.text[:300]}")
        raise _refusal(method, self._url + path, answer)


def _refusal(method: str, address: str, answer: httpx.Response) -> FtError:
    try:
        error = answer.json()["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = answer.text[:300], None
    text = f"{method} {address}: HTTP {answer.status_code}: {message}"
    if answer.status_code == 404:
        return NotFound(text)
    if answer.status_code == 409 or code in ("name_taken", "already_loaded"):
        return Conflict(text, retry_helps=False)
    return InvalidConfig(text, retry_helps=answer.status_code >= 500)
