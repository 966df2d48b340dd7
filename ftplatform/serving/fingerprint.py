"""The fingerprint probe: log-probabilities of a fixed prompt, with which an engine proves which weights answer.

A fingerprint is the stored object ``{"prompt_ids": [int], "token_ids": [int], "logprobs": [float]}``: the greedy
continuation of the prompt (end of turn ignored) and the natural-log probability of each of its tokens under the trained
weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftplatform.core.errors import InvalidConfig

TOLERANCE = 0.02
"""Nats. fp32 engines differ by 1e-5 and bf16 ones by about 1e-2, while two adapters worth telling apart differ by
tenths.
"""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    matches: bool
    worst_difference: float
    """Largest absolute difference of log-probabilities in nats; infinite when the tokens themselves differ."""
    message: str


def check_fingerprint(value: Any) -> Mapping[str, Any]:
    """``value`` when it has the form of a fingerprint.

    Raises:
        InvalidConfig: a field is absent, empty, or the lengths differ.
    """
    if not isinstance(value, Mapping) or not {"prompt_ids", "token_ids", "logprobs"} <= value.keys():
        raise InvalidConfig(
            f"fingerprint: accepted is an object with prompt_ids, token_ids and logprobs, found {value!r:.200}"
        )
    prompt, tokens, logprobs = value["prompt_ids"], value["token_ids"], value["logprobs"]
    if not prompt or not tokens or len(tokens) != len(logprobs):
        raise InvalidConfig(
            f"fingerprint: found {len(prompt)} prompt ids, {len(tokens)} token ids and {len(logprobs)} "
            "log-probabilities; accepted are at least one prompt id and one token, with one log-probability per token"
        )
    return value


def verify(
    expected: Mapping[str, Any], token_ids: Sequence[int], logprobs: Sequence[float], tolerance: float = TOLERANCE
) -> ProbeResult:
    """Compare what an engine answered with the fingerprint: the same tokens, log-probabilities within ``tolerance``
    nats.

    Raises:
        InvalidConfig: ``expected`` is not a fingerprint.
    """
    check_fingerprint(expected)
    wanted = list(expected["token_ids"])
    if len(token_ids) != len(logprobs) or len(token_ids) != len(wanted):
        return ProbeResult(
            False,
            math.inf,
            f"expected {len(wanted)} tokens, the engine gave {len(token_ids)} with {len(logprobs)} log-probabilities",
        )
    for position, (want, got) in enumerate(zip(wanted, token_ids, strict=True)):
        if want != got:
            return ProbeResult(
                False, math.inf, f"token {position} is {got}, the trained weights give {want}: other weights answered"
            )
    differences = [abs(want - got) for want, got in zip(expected["logprobs"], logprobs, strict=True)]
    # max() would let a NaN through, because every comparison with it is false.
    worst = math.inf if any(math.isnan(d) for d in differences) else max(differences)
    if worst <= tolerance:
        return ProbeResult(True, worst, f"{len(wanted)} tokens as trained, log-probabilities within {worst:.2g} nats")
    return ProbeResult(
        False,
        worst,
        f"log-probabilities differ by {worst:.4g} nats, accepted are {tolerance:g}: other weights answered",
    )
