"""Errors of the HTTP door, with the body OpenAI's clients expect: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from typing import Any

from ftplatform.core.errors import Conflict, CorruptObject, FtError, InvalidConfig, NotFound


class ApiError(Exception):
    """An answer other than success; ``status`` is the HTTP status, ``code`` a stable word for programs."""

    def __init__(
        self, status: int, message: str, *, type: str = "invalid_request_error", param: str | None = None,
        code: str | None = None, headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body: dict[str, Any] = {"error": {"message": message, "type": type, "param": param, "code": code}}


def bad_request(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def model_not_found(name: str, known: list[str]) -> ApiError:
    text = ", ".join(known) if known else "none is loaded"
    return ApiError(
        404, f"The model {name!r} does not exist. Known models: {text}.", param="model", code="model_not_found"
    )


def try_again(message: str, code: str, seconds: int = 1) -> ApiError:
    """503: nothing is wrong with the request, ``seconds`` later it may be answered."""
    return ApiError(503, message, type="server_error", code=code, headers={"retry-after": str(seconds)})


def internal(message: str, code: str = "internal_error") -> ApiError:
    return ApiError(500, message, type="server_error", code=code)


def load_refused(error: FtError) -> ApiError:
    """A refused load or unload as vLLM answers it: 400 ``InvalidUserInput``, 404 ``NotFoundError``, else 500."""
    if isinstance(error, NotFound):
        return ApiError(404, str(error), type="NotFoundError", code="not_found")
    if isinstance(error, AlreadyLoaded):
        return ApiError(400, str(error), type="InvalidUserInput", param="lora_name", code="already_loaded")
    if isinstance(error, Conflict):
        return ApiError(400, str(error), type="InvalidUserInput", param="lora_name", code="name_taken")
    if isinstance(error, CorruptObject):
        return ApiError(500, str(error), type="InternalServerError", code="corrupt_object")
    if isinstance(error, InvalidConfig | ValueError):
        return ApiError(400, str(error), type="InvalidUserInput", code="cannot_serve")
    return ApiError(500, str(error), type="InternalServerError", code="internal_error")


class AlreadyLoaded(Conflict):
    """The same bytes are already served under the name."""

    retry_helps = False
