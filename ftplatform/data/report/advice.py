"""What only the whole file shows: repeated rows, texts all beginning alike, rows of unusual length.

After the validators of OpenAI's client (``openai/lib/_validators.py``: duplicated rows, long examples, common prefix
and suffix). All of it is advice, of severity ``warning``: no row is refused for it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from ftplatform.core.rows import Finding, Row
from ftplatform.data.report.problems import finding

LONG_ROW = 10_000
"""Characters, the bound of OpenAI's validator; about 2,500 tokens of English."""
FEWEST_COMPARED = 5
"""Rows below which a common beginning says nothing."""
SHORTEST_AFFIX = 12
"""Characters of a shared beginning or end worth a word: shorter ones are ordinary language."""


@dataclass(slots=True)
class Shared:
    """What all texts of one place (prompts, or answers) begin and end with."""

    texts: int = 0
    prefix: str = ""
    suffix: str = ""
    """Reversed, so that both are prefixes."""
    identical: bool = True

    def add(self, text: str) -> None:
        if not self.texts:
            self.prefix, self.suffix = text, text[::-1]
        else:
            self.identical = self.identical and text == self.prefix
            if not text.startswith(self.prefix):
                self.prefix = _common(self.prefix, text)
            if not text.endswith(self.suffix[::-1]):
                self.suffix = _common(self.suffix, text[::-1])
        self.texts += 1

    def merge(self, other: Shared) -> None:
        if not other.texts:
            return
        if not self.texts:
            self.texts, self.prefix, self.suffix = other.texts, other.prefix, other.suffix
            self.identical = other.identical
            return
        self.identical = self.identical and other.identical and self.prefix == other.prefix
        self.prefix = _common(self.prefix, other.prefix)
        self.suffix = _common(self.suffix, other.suffix)
        self.texts += other.texts


@dataclass(slots=True)
class Advice:
    """Accumulates accepted rows of one file, in their order: 16 bytes a row, whatever the rows hold.

    Workers fill one each over their part and ``merge`` puts the parts together in order.
    """

    keys: array[int] = field(default_factory=lambda: array("Q"))
    """64 bits of the content's BLAKE2b per row: two different rows of ten million share one with a chance of 3e-6."""
    lines: array[int] = field(default_factory=lambda: array("Q"))
    prompts: Shared = field(default_factory=Shared)
    answers: Shared = field(default_factory=Shared)
    empty_rows: int = 0
    first_empty: tuple[int, str] = (0, "")
    """(line, path) of the first turn without text."""
    long_rows: int = 0
    longest: tuple[int, int] = (0, 0)
    """(characters, line)"""

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            line = int(row.source.rpartition(":")[2])
            texts = list(row.contents())
            roles = ",".join(m.role for m in (*row.messages, *row.chosen, *row.rejected))
            joined = "\0".join([roles, str(row.label), *texts])
            self.keys.append(
                int.from_bytes(blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
            )
            self.lines.append(line)
            self._compare(row)
            # A document is as long as it is; in a conversation, length is mostly an accident.
            length = sum(map(len, texts)) if row.kind != "text" else 0
            if length > LONG_ROW:
                self.long_rows += 1
                if length > self.longest[0]:
                    self.longest = (length, line)
            empty = next((i for i, m in enumerate(row.messages) if not m.content.strip() and not m.tool_calls), None)
            if empty is not None:
                self.first_empty = self.first_empty if self.empty_rows else (line, f"messages[{empty}].content")
                self.empty_rows += 1

    def merge(self, later: Advice) -> None:
        """Add the rows of ``later``, which stand after these in the file."""
        self.keys += later.keys
        self.lines += later.lines
        self.prompts.merge(later.prompts)
        self.answers.merge(later.answers)
        self.first_empty = self.first_empty if self.empty_rows else later.first_empty
        self.empty_rows += later.empty_rows
        self.long_rows += later.long_rows
        self.longest = max(self.longest, later.longest, key=lambda found: found[0])

    def findings(self, file: str) -> Iterator[Finding]:
        """The advice on ``file``: first what is said once, then every repeated row."""
        if self.long_rows:
            characters, line = self.longest
            found = f"{self.long_rows} of {len(self.lines)} rows are longer; this one, the longest, has {characters:,}"
            yield finding("long_row", file, line, f"{found} characters", severity="warning")
        yield from self._affixes(file)
        if self.empty_rows:
            line, path = self.first_empty
            found = f"{self.empty_rows} of {len(self.lines)} rows have a turn without text; this is the first"
            yield finding("empty_field", file, line, found, path, "warning")
        yield from self._duplicates(file)

    def _compare(self, row: Row) -> None:
        if row.kind == "text":
            self.answers.add(row.text)
            return
        # The last question: first ones are often no more than a greeting.
        prompt = next((m.content for m in reversed(row.messages) if m.role == "user"), None)
        if prompt is not None:
            self.prompts.add(prompt)
        last = (row.chosen or row.messages)[-1:]
        if last and last[0].role == "assistant" and last[0].content:
            self.answers.add(last[0].content)

    def _affixes(self, file: str) -> Iterator[Finding]:
        for what, shared in (("prompt", self.prompts), ("answer", self.answers)):
            if shared.texts < FEWEST_COMPARED:
                continue
            if shared.identical and what == "prompt":
                yield finding("all_prompts_identical", file, 0, shared.prefix, severity="warning")
                continue
            # Where all is the same, the end says nothing that the beginning has not said.
            prefix, suffix = shared.prefix.strip(), "" if shared.identical else shared.suffix[::-1].strip()
            for code, affix, verb in (("common_prefix", prefix, "begins"), ("common_suffix", suffix, "ends")):
                if len(affix) >= SHORTEST_AFFIX:
                    yield finding(code, file, 0, f"every {what} {verb} with {affix}", severity="warning")

    def _duplicates(self, file: str) -> Iterator[Finding]:
        import numpy as np

        keys = np.frombuffer(self.keys, dtype=np.uint64) if self.keys else np.empty(0, np.uint64)
        # A stable sort puts equal rows side by side, the earliest first; the memory is that of four numbers a row.
        order = np.argsort(keys, kind="stable")
        repeats = np.zeros(len(keys), np.bool_)
        repeats[1:] = keys[order[1:]] == keys[order[:-1]]
        begins, at = np.flatnonzero(~repeats), np.flatnonzero(repeats)
        first = order[begins[np.searchsorted(begins, at, side="right") - 1]]
        for position, earliest in sorted(zip(order[at].tolist(), first.tolist(), strict=True)):
            found = f"the same as line {self.lines[earliest]}"
            yield finding("duplicate_row", file, self.lines[position], found, severity="warning")


def _common(a: str, b: str) -> str:
    """What both begin with."""
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]
