"""The deployment's secret key: 64 hexadecimal characters, in the environment or in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ftplatform.core.errors import InvalidConfig
from ftplatform.settings import Settings


def deployment_key(settings: Settings) -> bytes:
    """The key of this deployment.

    Raises:
        InvalidConfig: it is no key; or steps run as pods and it is not in the environment: each pod would make its own, and
            no two would agree on a pseudonym.
    """
    if settings.secret_key is not None:
        return _parsed(settings.secret_key, "FTPLATFORM_SECRET_KEY")
    if settings.executor == "k8s":
        raise InvalidConfig(
            "FTPLATFORM_SECRET_KEY is not set, and pods share no disk for the file: put 64 hexadecimal characters "
            "(openssl rand -hex 32) into the Secret; a retry does not help"
        )
    return read_or_make(settings.secret_file)


def read_or_make(path: Path) -> bytes:
    """The key, made and kept when there is none.

    Raises:
        InvalidConfig: the file holds something else, or cannot be made here.
    """
    if not path.exists():
        _make(path)
    return _parsed(path.read_text(encoding="ascii", errors="replace").strip(), str(path))


def _parsed(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < 32:
        raise InvalidConfig(f"{where} holds {len(text)} characters: accepted are at least 64 hexadecimal ones")
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
