"""Proof, on real token ids, of what a row teaches: which tokens carry loss, and that every answer learns to end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ftplatform.core.checks import CheckResult
from ftplatform.core.rows import Finding
from ftplatform.data.rendering.learned import learned_html, learned_markdown, supervised_text
from ftplatform.data.report.problems import finding
from ftplatform.data.text import SHOWN_ROWS
from ftplatform.data.tokens.tokenize import IGNORED, Tokenized, TokenizedRow

__all__ = [
    "Proof",
    "check_supervision",
    "learned_html",
    "learned_markdown",
    "prove",
    "supervised_text",
    "supervision_findings",
    "worst_first",
]


@dataclass(frozen=True, slots=True)
class Proof:
    """One row: what its tokens teach."""

    source: str
    tokens: int
    supervised: int
    """Tokens that carry loss. The first token of a row never does: nothing comes before it."""
    turns: int
    stopped: int
    """Stretches of learned tokens that hold a stop token."""
    cut: bool
    """The row fills the limit, and its last learned stretch runs to the end without a stop token."""

    @property
    def share(self) -> float:
        return self.supervised / self.tokens if self.tokens else 0.0

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of ``problems.TEXTS``, empty for a row that teaches what it should."""
        if not self.supervised:
            return ("zero_supervised_tokens",)
        if self.cut:
            return ("answer_cut_by_limit",)
        return ("stop_token_untrained",) if self.stopped < self.turns else ()


def prove(row: TokenizedRow, stop_ids: Collection[int], max_length: int) -> Proof:
    learned = row.labels != IGNORED
    stops = learned & np.isin(row.input_ids, list(stop_ids))
    starts = np.flatnonzero(learned & ~np.concatenate([[False], learned[:-1]]))
    with_stop = int(np.logical_or.reduceat(stops, starts)[: len(starts)].sum()) if len(starts) else 0
    # Two answers that touch are one stretch; there the stop tokens count themselves.
    stopped = with_stop if with_stop < len(starts) else max(with_stop, min(int(stops.sum()), row.trained_turns))
    tail = learned[starts[-1] :] if len(starts) else learned
    cut = bool(len(row.input_ids) >= max_length and len(starts) and tail.all() and not stops[starts[-1] :].any())
    return Proof(row.source, len(row.input_ids), int(learned[1:].sum()), row.trained_turns, stopped, cut)


def worst_first(rows: Sequence[TokenizedRow], stop_ids: Collection[int], max_length: int) -> list[TokenizedRow]:
    """Broken rows first, then those of which the smallest share is learned; otherwise in their order."""
    proofs = [prove(row, stop_ids, max_length) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (not proofs[i].codes, proofs[i].share))
    return [rows[i] for i in order]


def supervision_findings(
    tokenized: Tokenized, stop_ids: Collection[int], too_long: Literal["refuse", "drop"]
) -> list[Finding]:
    """One finding per row whose tokens do not teach what they should, with the line it comes from."""
    found = []
    for row in tokenized.rows:
        proof = prove(row, stop_ids, tokenized.max_length)
        for code in proof.codes:
            what = (
                f"{proof.tokens} tokens, {proof.supervised} learned, {proof.stopped} of {proof.turns} answers stopped"
            )
            found.append(_finding(code, row.source, what, "error"))
    for left_out in tokenized.too_long:
        what = f"{left_out['tokens']} tokens, limit {tokenized.max_length}"
        found.append(_finding("too_long", left_out["source"], what, "error" if too_long == "refuse" else "warning"))
    return found


def check_supervision(
    tokenized: Tokenized, stop_ids: Collection[int], too_long: Literal["refuse", "drop"]
) -> list[CheckResult]:
    """``rows_supervised``, ``stop_token_trained`` and ``truncation``; the last one blocks only under ``refuse``."""
    proofs = [prove(row, stop_ids, tokenized.max_length) for row in tokenized.rows]
    bare = [proof for proof in proofs if not proof.supervised]
    endless = [proof for proof in proofs if proof.stopped < proof.turns]
    cut = [proof for proof in proofs if proof.cut]
    left_out = len(tokenized.too_long)
    rows, total = len(proofs), len(proofs) + left_out
    longest = max((row["tokens"] for row in tokenized.too_long), default=max(tokenized.lengths, default=0))
    tokens, learned = sum(proof.tokens for proof in proofs), sum(proof.supervised for proof in proofs)
    return [
        CheckResult(
            "rows_supervised",
            bool(rows) and not bare,
            f"{rows - len(bare)} of {rows} rows have tokens to learn; {learned} of {tokens} tokens carry loss."
            + (" No row fits the length limit." if not rows else ""),
            numbers={
                "rows": rows,
                "without_supervision": len(bare),
                "supervised_share": learned / tokens if tokens else 0.0,
            },
            rows=_table(bare),
        ),
        CheckResult(
            "stop_token_trained",
            not endless,
            f"In {rows - len(endless)} of {rows} rows every trained answer ends with a trained stop token"
            + ("; a model that never learns it never stops." if endless else "."),
            numbers={"rows": rows, "without_stop": len(endless)},
            rows=_table(endless),
        ),
        CheckResult(
            "truncation",
            not left_out and not cut,
            f"{left_out} of {total} rows are longer than {tokenized.max_length} tokens (longest {longest}) and are "
            f"left out whole; {len(cut)} answers are cut. Policy: {too_long}.",
            severity="error" if too_long == "refuse" or cut else "warning",
            numbers={
                "rows": total,
                "left_out": left_out,
                "cut": len(cut),
                "max_length": tokenized.max_length,
                "longest": longest,
            },
            rows=_table(cut) or sorted(tokenized.too_long, key=lambda row: -row["tokens"])[:SHOWN_ROWS],
        ),
    ]


def _table(proofs: Sequence[Proof]) -> list[dict[str, int | str | float]]:
    return [
        {
            "source": proof.source,
            "tokens": proof.tokens,
            "learned": proof.supervised,
            "trained_turns": proof.turns,
            "stopped": proof.stopped,
        }
        for proof in proofs[:SHOWN_ROWS]
    ]


def _finding(code: str, source: str, found: str, severity: Literal["error", "warning"]) -> Finding:
    file, _, line = source.rpartition(":")
    return finding(code, file or source, int(line) if line.isdigit() else 0, found, severity=severity)
