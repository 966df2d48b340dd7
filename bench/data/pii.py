"""Speed, recall and precision of the personal-data scrub, beside presidio alone: `python -m bench.data.pii`.

Speed is in rows per CPU second of one process, on chat rows of about 200 characters (a few in a hundred with
personal data, one in four with a date, a price or an order number), in blocks as the pipeline gets them. Presidio alone
means: the same recognizers on every text, nothing in front. Recall and precision are on `tests/samples_pii/planted.tsv`.
"""

from __future__ import annotations

import csv
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from ftplatform.core.dataset_config import PiiConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.pii.find import Finder, Span, merge, recognize
from ftplatform.data.pii.fold import fold
from ftplatform.data.pii.phone import long_enough
from ftplatform.data.pii.rules import LEAST_SCORE, RULES, load_recognizers
from ftplatform.data.pii.scrubber import DEFAULTS, open_scrubber

PLANTED = Path(__file__).parents[2] / "tests" / "samples_pii" / "planted.tsv"
RESULT = Path(__file__).parents[1] / "results" / "data_pii.md"
BLOCK = 2000
WORDS = (  # noqa: SIM905
    "the a card order please can you where is my I ordered it on at days account money transfer help when how number "
    "top up pin app exchange rate fee ATM thanks"
).split()


def chat_text(rng: random.Random) -> str:
    def digits(n: int) -> str:
        return "".join(rng.choices("0123456789", k=n))

    words = rng.choices(WORDS, k=20)
    plain: list[Callable[[], str]] = [
        lambda: f"20{rng.randint(10, 26)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
        lambda: f"${digits(2)}.{digits(2)}",
        lambda: f"#{digits(5)}",
    ]
    personal: list[Callable[[], str]] = [
        lambda: f"{rng.choice(WORDS)}{digits(3)}@example.com",
        lambda: f"+1 212 555 {digits(4)}",
        lambda: f"(212) 555-{digits(4)}",
        lambda: "4111 1111 1111 1111",
        lambda: f"10.3.{digits(1)}.7",
    ]
    if rng.random() < 0.13:
        words[9] = rng.choice(plain)()
    if rng.random() < 0.02:
        words[12] = rng.choice(personal)()
    return " ".join(words)


def chat_blocks(rows: int, seed: int = 3) -> Iterator[list[Row]]:
    rng = random.Random(seed)
    for first in range(0, rows, BLOCK):
        yield [
            Row((Message("user", chat_text(rng), False), Message("assistant", chat_text(rng))), f"a.jsonl:{first + i}")
            for i in range(min(BLOCK, rows - first))
        ]


def alone(text: str, entities: tuple[str, ...] = DEFAULTS) -> list[Span]:
    folded = fold(text)
    spans = merge([span for entity in entities for span in recognize(folded.text, entity)])
    return [Span(*folded.original(s.start, s.end), s.entity, s.score) for s in spans]


def speed(rows: int) -> dict[str, float]:
    scrubber, finder = open_scrubber(PiiConfig(), b"bench"), Finder(DEFAULTS)
    for block in chat_blocks(BLOCK, seed=1):  # each recognizer compiles its patterns when it first sees a text
        scrubber.scrub(block)
    spent = proof = 0.0
    touched = left = 0
    for block in chat_blocks(rows):
        start = time.process_time()
        done = scrubber.scrub(block)
        middle = time.process_time()
        left += len(scrubber.find([row for row in done.rows if row is not None]))
        spent, proof = spent + middle - start, proof + time.process_time() - middle
        touched += sum(a is not b for a, b in zip(block, done.rows, strict=True))
    few = [row for block in chat_blocks(400, seed=8) for row in block]
    start = time.process_time()
    theirs = [alone(text) for row in few for text in row.contents()]
    slow = time.process_time() - start
    assert theirs == [finder.find(text) for row in few for text in row.contents()], "the findings differ"
    assert left == 0
    return {"scrub": rows / spent, "proof": rows / proof, "alone": len(few) / slow, "touched": touched / rows}


def presidio_as_shipped(text: str, entities: tuple[str, ...]) -> list[Span]:
    """Presidio's recognizers on the text as it is: no folded digits, no own patterns, no words nearby."""
    known = load_recognizers()
    found = [
        Span(r.start, r.end, entity, r.score)
        for entity in entities
        if RULES[entity].recognizer
        for r in known[entity].analyze(text, [entity], None)
        if r.score >= LEAST_SCORE and (entity != "PHONE_NUMBER" or long_enough(text[r.start : r.end]))
    ]
    return merge(found)


def measure(find: Callable[[str, tuple[str, ...]], list[Span]]) -> dict[str, Counter[str]]:
    """Per entity: ``planted`` values, how many are ``covered`` by a finding, by one of that name (``named``), and
    findings of that name which cover no planted value (``false``)."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    with PLANTED.open(encoding="utf-8", newline="") as file:
        for line in list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]:
            entity, value, text = (cell.replace("\\n", "\n").replace("\\\\", "\\") for cell in line[:3])
            asked = DEFAULTS if not entity or entity in DEFAULTS else (*DEFAULTS, entity)
            found = find(text, asked)
            covering = [s for s in found if value and value in text[s.start : s.end]]
            if value:
                table[entity]["planted"] += 1
                table[entity]["covered"] += bool(covering)
                table[entity]["named"] += any(s.entity == entity for s in covering)
            for span in found:
                if span not in covering:
                    table[span.entity]["false"] += 1
    return table


def report(rows: int) -> str:
    rates = speed(rows)
    finders: dict[tuple[str, ...], Finder] = {}

    def ours(text: str, entities: tuple[str, ...]) -> list[Span]:
        if entities not in finders:
            finders[entities] = Finder(entities)
        return finders[entities].find(text)

    mine, theirs = measure(ours), measure(presidio_as_shipped)
    lines = [
        "# Personal data: speed, recall, precision",
        "",
        f"`python -m bench.data.pii {rows}`; one process, CPU seconds, the machine busy with other work.",
        "",
        "| | rows per CPU second |",
        "|---|---|",
        f"| scrub ({rates['touched']:.1%} of the rows changed) | {rates['scrub']:,.0f} |",
        f"| the proof: the scrubbed rows scanned again | {rates['proof']:,.0f} |",
        f"| the same recognizers, nothing in front (400 rows, the same findings) | {rates['alone']:,.0f} |",
        "",
        "The planted set is `tests/samples_pii/planted.tsv`. *Covered*: a finding holds the whole value, whatever its name; *named*: it has",
        "this name; *false*: findings of this name that cover no planted value, with the wrong check digits and the clean texts.",
        "",
        "| entity | planted | covered | named | false | presidio covered | presidio false |",
        "|---|---|---|---|---|---|---|",
    ]
    for entity in RULES:
        a, b = mine[entity], theirs[entity]
        off = "" if RULES[entity].on else " (on request)"
        shipped = f"{b['covered']}" if RULES[entity].recognizer else f"{b['covered']} (no such rule)"
        lines.append(
            f"| `{entity}`{off} | {a['planted']} | {a['covered']} | {a['named']} | {a['false']} | {shipped} | {b['false']} |"
        )
    total, other = sum(mine.values(), Counter()), sum(theirs.values(), Counter())
    lines.append(
        f"| all | {total['planted']} | {total['covered']} | {total['named']} | {total['false']} | {other['covered']} | {other['false']} |"
    )
    shared = {entity for entity in RULES if RULES[entity].recognizer}
    same = sum((theirs[entity] for entity in shared), Counter()) + Counter(false=0)
    for who, sums in (
        ("The scrub", total),
        ("Presidio as shipped", other),
        ("Presidio, entities it has a rule for", same),
    ):
        recall, precision = sums["covered"] / sums["planted"], sums["covered"] / (sums["covered"] + sums["false"])
        lines += ["", f"{who}: recall {recall:.3f}, precision {precision:.3f}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = report(int(sys.argv[1]) if len(sys.argv) > 1 else 40_000)
    RESULT.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
