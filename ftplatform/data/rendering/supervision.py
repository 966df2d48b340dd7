"""What each row teaches, by name: findings for the rows that do not teach what they should, and which rows to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ftplatform.core.rows import Finding
from ftplatform.data.report.problems import finding
from ftplatform.data.tokens.fitted import Fitted


def codes_of(rows: Fitted, sequences: NDArray[np.int64]) -> list[str]:
    """For each of these kept sequences a code of ``problems.TEXTS``, ``""`` for one that teaches what it should."""
    bare, cut, endless = (flags[sequences] for flags in (rows.bare, rows.cut, rows.endless))
    codes = np.where(endless, "stop_token_untrained", "")
    found: list[str] = np.where(bare, "zero_supervised_tokens", np.where(cut, "answer_cut_by_limit", codes)).tolist()
    return found


def supervision_findings(
    rows: Fitted,
    too_long: Literal["refuse", "drop"],
    sources: Callable[[Sequence[int]], dict[int, str]],
    limit: int,
) -> list[Finding]:
    """One finding per sequence that does not teach what it should and per row left out, with the line it comes from; the first
    ``limit``. ``sources`` as for ``check_rows``.
    """
    figures = rows.figures
    broken = np.flatnonzero(rows.bare | rows.endless | rows.cut)[:limit]
    left_out = rows.too_long[: limit - len(broken)].tolist()
    places = rows.kept[broken // rows.per_row].tolist()
    source = sources([*places, *left_out]) if places or left_out else {}
    found = []
    for sequence, place, code in zip(broken.tolist(), places, codes_of(rows, broken), strict=True):
        what = (
            f"{figures.lengths[sequence]} tokens, {figures.supervised[sequence]} learned, "
            f"{figures.stopped[sequence]} of {figures.turns[sequence]} answers stopped"
        )
        found.append(_finding(code, source[place], what, "error"))
    for place, tokens in zip(left_out, rows.longest.tolist(), strict=False):
        what = f"{tokens} tokens, limit {rows.max_length}"
        found.append(_finding("too_long", source[place], what, "error" if too_long == "refuse" else "warning"))
    return found


def worst_first(rows: Fitted) -> NDArray[np.int64]:
    """The kept sequences: broken ones first, then those of which the smallest share is learned."""
    return np.lexsort((rows.figures.share, ~(rows.bare | rows.endless | rows.cut)))


def worth_a_look(rows: Fitted, each: int = 2) -> dict[int, str]:
    """Kept sequences that a person should see, and why: broken ones, those that teach least, those nearest to the limit, and two
    typical ones to compare them with. At most ``each`` of a kind, none twice.
    """
    figures, share = rows.figures, rows.figures.share
    # A mix repeats rows, and a dataset may say the same twice.
    once = np.sort(np.unique(rows.sequences, return_index=True)[1])
    longest = once[np.argsort(-figures.lengths[once], kind="stable")]
    least = once[np.argsort(share[once], kind="stable")]
    typical = np.array([one[len(once) // 2] for one in (longest, least) if len(once)], dtype=np.int64)
    kinds: list[tuple[NDArray[np.int64], Callable[[int], str]]] = [
        (once[rows.bare[once]], lambda i: "nothing is learned"),
        (
            once[(rows.endless & ~rows.bare)[once]],
            lambda i: (
                f"{figures.turns[i] - figures.stopped[i]} of {figures.turns[i]} answers without a trained stop token"
            ),
        ),
        (least if rows.layout != "prompts" else least[:0], lambda i: f"least is learned: {share[i]:.0%}"),
        (longest, lambda i: f"nearest to the limit: {figures.lengths[i]} of {rows.max_length} tokens"),
        (typical, lambda i: f"typical: {figures.lengths[i]} tokens, {share[i]:.0%} learned"),
    ]
    found: dict[int, str] = {}
    for sequences, why in kinds:
        fresh = [i for i in sequences[: each + len(found)].tolist() if i not in found][:each]
        found |= {i: why(i) for i in fresh}
    return found


def _finding(code: str, source: str, found: str, severity: Literal["error", "warning"]) -> Finding:
    file, _, line = source.rpartition(":")
    return finding(code, file or source, int(line) if line.isdigit() else 0, found, severity=severity)
