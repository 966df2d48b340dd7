"""Trackers beside MLflow: what the setting names, and what a training is told of it."""

from __future__ import annotations

from typing import Literal, get_args

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.frozen import Frozen

Kind = Literal["tensorboard", "wandb", "aim"]
PACKAGES: dict[str, str] = {"tensorboard": "tensorboard", "wandb": "wandb", "aim": "aim"}
"""Names for pip and for import, which are the same."""
_SERVERS: dict[str, tuple[str, ...]] = {"tensorboard": (), "wandb": ("http://", "https://"), "aim": ("aim://",)}


class TrackerAddress(Frozen):
    kind: Kind
    target: str
    """An absolute folder, or the address of a server."""

    @property
    def remote(self) -> bool:
        return "://" in self.target


def parse_trackers(text: str) -> tuple[TrackerAddress, ...]:
    """``tensorboard:/folder, wandb:https://host, aim:aim://host:53800``: one or more, comma-separated; nothing for "".

    Raises:
        InvalidConfig: an entry that names no tracker, or no folder and no server of its kind.
    """
    found = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        kind, _, target = entry.partition(":")
        if kind not in get_args(Kind):
            raise InvalidConfig(
                f"FTPLATFORM_TRACKERS has {entry!r}: accepted are {', '.join(get_args(Kind))}, each KIND:TARGET"
            )
        if not target.startswith(("/", *_SERVERS[kind])) or target in _SERVERS[kind]:
            servers = "".join(f" or {scheme}..." for scheme in _SERVERS[kind])
            raise InvalidConfig(f"FTPLATFORM_TRACKERS has {entry!r}: accepted is {kind}:/folder{servers}")
        found.append(TrackerAddress(kind=kind, target=target))
    if len({one.kind for one in found}) < len(found):
        raise InvalidConfig(f"FTPLATFORM_TRACKERS={text!r} names a tracker twice: accepted is each of them once")
    return tuple(found)
