"""The base of every value that passes between parts: frozen, closed to unknown fields, hashed by content."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ftplatform.core.digests import digest_json


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @property
    def content_digest(self) -> str:
        """SHA-256 of the canonical JSON form."""
        return digest_json(self.model_dump(mode="json"))
