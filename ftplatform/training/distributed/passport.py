"""What a process says of itself before a training of several, and what is wrong with what they say together. Without torch."""

from __future__ import annotations

from collections.abc import Sequence

from ftplatform.core.frozen import Frozen

CLOCK_SECONDS = 60.0
"""How far clocks may lie apart: an object store refuses signatures of the wrong time, and logs cannot be read together."""


class Passport(Frozen):
    rank: int
    host: str
    device: str
    backend: str
    code: str
    """Digest of the source text that trains."""
    spec: str
    """Digest of the spec."""
    torch: str


def missing(passports: Sequence[Passport], processes: int) -> str:
    """Which ranks did not come; empty when all did."""
    absent = sorted(set(range(processes)) - {one.rank for one in passports})
    if not absent:
        return ""
    came = ", ".join(f"rank {one.rank} on {one.host}" for one in passports)
    return f"of {processes} processes rank {', '.join(map(str, absent))} did not join (here: {came})"


def differences(passports: Sequence[Passport], clocks: Sequence[float]) -> str:
    """In which ways the processes differ that have to be equal; empty when in none. ``clocks`` are seconds, by rank."""
    first, found = passports[0], []
    for name, words in (("code", "another source code"), ("spec", "another spec"), ("backend", "another backend"),
                        ("torch", "another torch")):  # fmt: skip
        other = [one for one in passports if getattr(one, name) != getattr(first, name)]
        if other:
            ranks = ", ".join(f"rank {one.rank} on {one.host} ({getattr(one, name)[:24]})" for one in other)
            found.append(f"{ranks} has {words} than rank 0 on {first.host} ({getattr(first, name)[:24]})")
    ahead = [one for one, clock in zip(passports, clocks, strict=True) if abs(clock - clocks[0]) > CLOCK_SECONDS]
    if ahead:
        found.append(
            f"the clocks of {', '.join(one.host for one in ahead)} are more than {CLOCK_SECONDS:g} s off rank 0's"
        )
    devices = [(one.host, one.device) for one in passports if one.device != "cpu"]
    if shared := {pair for pair in devices if devices.count(pair) > 1}:
        found.append(
            f"several processes use one GPU: {', '.join(f'{device} on {host}' for host, device in sorted(shared))}"
        )
    return "; ".join(found)
