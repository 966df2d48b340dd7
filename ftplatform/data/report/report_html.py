"""The row report as one page: verdict, counts, what to do about every code, and the findings with a filter.

The page loads nothing: style and script are inside, and its content policy forbids everything else. All that comes
from the customer is escaped; ``found`` is shortened and masked where findings are made.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path

import orjson

from ftplatform.data.report.problem_examples import EXAMPLES
from ftplatform.data.report.problems import TEXTS, printable
from ftplatform.data.report.report import FileReport, RowReport
from ftplatform.data.report.report_page import SCRIPT, STYLE

MOST_FINDINGS = 5_000
"""On the page, so that a browser opens it at once: about 2 MB."""
LEAST_PER_CODE = 20
"""Shown of every code, although the page is full."""


def write_html(report: RowReport, target: Path, title: str = "Row report", complete: str = "") -> None:
    """Write the page to ``target``. Findings are read one at a time from ``report.path``.

    ``complete`` names the place of the complete list of findings for the reader; without it, ``report.path``.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    shown: Counter[str] = Counter()
    with target.open("w", encoding="utf-8") as page:
        page.write(
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        )
        page.writelines(_head(report, title))
        page.writelines(_files(report.files))
        page.writelines(_codes(report))
        if report.counts:
            page.write(
                '<h2>Findings</h2><div class="filter"><label>Code <select id="code"><option value="">all</option>'
                + "".join(f"<option>{escape(code)}</option>" for code in sorted({code for code, _ in report.counts}))
                + '</select></label><label>Search <input id="text" type="search" placeholder="file, line, text"></label>'
                '<span id="visible"></span></div>'
                '<table id="findings"><thead><tr><th>Place</th><th>Code</th><th>Found</th><th>Accepted</th><th>Fix</th>'
                "</tr></thead><tbody>\n"
            )
            page.writelines(_findings(report.path, shown))
            page.write("</tbody></table>")
            total, here = sum(report.counts.values()), shown.total()
            page.write(
                f'<p class="note">{here:,} of {total:,} findings are on this page. The complete list, a JSON object per '
                f"line: <code>{escape(complete or str(report.path))}</code></p>"
            )
        page.write(f"</main><script>{SCRIPT}</script></body></html>\n")


def _head(report: RowReport, title: str) -> Iterator[str]:
    verdict = "refused" if report.refused else "accepted"
    yield f'<header><h1>{escape(title)}</h1><p class="verdict {verdict}">{verdict.capitalize()}</p></header>'
    if report.reasons:
        yield '<ul class="reasons">' + "".join(f"<li>{escape(reason)}</li>" for reason in report.reasons) + "</ul>"
    elif report.bad_rows:
        yield (
            f'<p class="reasons">The {report.bad_rows} bad rows are left out, as '
            f"<code>max_bad_rows: {report.max_bad_rows}</code> allows.</p>"
        )
    numbers = {
        "rows read": report.read,
        "accepted": report.accepted,
        "bad": report.bad_rows,
        "errors": report.count("error"),
        "warnings": report.count("warning"),
    }
    yield '<dl class="numbers">'
    for name, number in numbers.items():
        mark = ' class="bad"' if name in ("bad", "errors") and number else ""
        yield f"<div{mark}><dt>{name}</dt><dd>{number:,}</dd></div>"
    yield "</dl>"


def _files(reports: tuple[FileReport, ...]) -> Iterator[str]:
    yield "<h2>Files</h2><table><thead><tr><th>File</th><th>Format</th><th>Used as</th>"
    yield '<th class="number">Read</th><th class="number">Accepted</th><th class="number">Bad</th></tr></thead><tbody>'
    for file in reports:
        by = f'<br><span class="note">{escape(file.detected_by)}</span>' if file.detected_by else ""
        yield (
            f"<tr><td>{escape(printable(file.name))}</td><td>{escape(file.format or 'not recognised')}{by}</td>"
            f'<td>{escape(file.role)}</td><td class="number">{file.read:,}</td><td class="number">{file.accepted:,}</td>'
            f'<td class="number">{file.bad:,}</td></tr>'
        )
    yield "</tbody></table>"


def _codes(report: RowReport) -> Iterator[str]:
    if not report.counts:
        yield '<p class="note">Nothing was found that needs a word.</p>'
        return
    yield "<h2>What to do</h2>"
    ordered = sorted(report.counts.items(), key=lambda item: (item[0][1] != "error", -item[1], item[0]))
    for place, ((code, severity), number) in enumerate(ordered):
        accepted, fix = TEXTS[code]
        example = EXAMPLES.get(code)
        yield (
            f'<details class="{severity}"{"" if place else " open"}><summary><span class="level">{severity}</span> <code>{escape(code)}</code> '
            f'<span class="count">{number:,}</span></summary><p><b>Accepted:</b> {escape(accepted)}.</p>'
            f"<p><b>To fix it:</b> {escape(fix)}.</p>"
        )
        if example is not None:
            yield (
                f'<div class="pair"><figure><figcaption>Brings it about</figcaption><pre>{escape(example.bad)}</pre></figure>'
                f"<figure><figcaption>Better</figcaption><pre>{escape(example.good)}</pre></figure></div>"
            )
        yield f'<p><button type="button" data-code="{escape(code)}">Show these findings</button></p></details>'


def _findings(path: Path, shown: Counter[str]) -> Iterator[str]:
    with path.open("rb") as lines:
        for line in lines:
            f = orjson.loads(line)
            if shown.total() >= MOST_FINDINGS and shown[f["code"]] >= LEAST_PER_CODE:
                continue
            shown[f["code"]] += 1
            place = escape(f["file"] or "the upload") + (f":<b>{f['line']}</b>" if f["line"] else "")
            where = f"<br><code>{escape(f['path'])}</code>" if f["path"] else ""
            yield (
                f'<tr class="{escape(f["severity"])}" data-code="{escape(f["code"])}"><td>{place}{where}</td>'
                f'<td><code>{escape(f["code"])}</code></td><td class="found">{escape(f["found"])}</td>'
                f"<td>{escape(f['accepted'])}</td><td>{escape(f['fix'])}</td></tr>\n"
            )
