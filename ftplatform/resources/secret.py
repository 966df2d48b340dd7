"""The deployment's secret key: a file of 64 hexadecimal characters that only its owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ftplatform.core.errors import InvalidConfig


def read_or_make(path: Path) -> bytes:
    """The key, made and kept when there is none.

    Raises:
        InvalidConfig: the file holds something else, or cannot be made here.
    """
    if not path.exists():
        _make(path)
    text = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < 32:
        raise InvalidConfig(f"{path} holds {len(text)} characters: accepted are at least 64 hexadecimal ones")
    return key


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    try:
        os.link(temporary, path)  # fails where another process was first: its key is the one that counts
    except FileExistsError:
        return
    finally:
        os.unlink(temporary)
