"""Every error the platform raises on purpose.

    FtError
    ├── InvalidKey        (ValueError)    a tenant, dataset, recipe, base or partition key of the wrong form
    ├── InvalidConfig     (ValueError)    a dataset.yaml, recipe or setting that cannot be used
    ├── NotFound          (LookupError)   something named does not exist
    ├── Conflict          (RuntimeError)  somebody else holds or changed what was asked for
    ├── CorruptObject     (OSError)       stored bytes do not match their digest
    ├── DataRefused       (ValueError)    an upload that the row report refuses
    ├── PlanRefused       (ValueError)    a job that does not fit, or whose result could not be served
    └── PayloadFailed     (RuntimeError)  a payload ended without the outcome ``done``

A message says what was attempted, what was found and what would be accepted; ``retry_helps`` says whether the same call can
succeed later without a change by a person. The Dagster shell turns it into ``dg.Failure(allow_retries=...)``.
"""

from __future__ import annotations


class FtError(Exception):
    """Base of all; ``retry_helps`` is a class default that an instance may override."""

    retry_helps = False

    def __init__(self, message: str, *, retry_helps: bool | None = None) -> None:
        super().__init__(message)
        if retry_helps is not None:
            self.retry_helps = retry_helps


class InvalidKey(FtError, ValueError): ...


class InvalidConfig(FtError, ValueError): ...


class NotFound(FtError, LookupError): ...


class Conflict(FtError, RuntimeError):
    retry_helps = True


class CorruptObject(FtError, OSError): ...


class DataRefused(FtError, ValueError): ...


class PlanRefused(FtError, ValueError): ...


class PayloadFailed(FtError, RuntimeError): ...
