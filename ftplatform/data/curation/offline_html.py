"""Great Expectations' pages without what they load from public networks, readable all the same.

The pages take Bootstrap, jQuery, Vega and fonts from six public CDNs. Those are taken out, a small style sheet stands
in, and the entry page, whose tables only a script fills, is written anew. What is lost is interaction: filters and
folded sections.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1f2933; background: #f5f7fa; margin: 0; padding: 0 0 3rem; }
.container, .container-fluid, main { max-width: 1180px; margin: 0 auto; padding: 0 1.25rem; }
.row { display: block; margin: 0; } [class*="col-"] { position: static !important; width: auto; max-width: none; }
nav.navbar { position: static !important; height: auto !important; max-height: none !important; padding: .6rem 1.25rem; }
nav.sticky-top { background: #fff; border-bottom: 1px solid #d5dce4; }
ol, ul.nav { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin: 0; padding: 0; max-height: none !important; }
.breadcrumb-item + .breadcrumb-item::before { content: "/ "; color: #8794a3; }
h1, h2, h3, h4, h5 { line-height: 1.25; margin: .8rem 0 .4rem; } h6 { font-size: 1rem; margin: .8rem 0 .2rem; }
.card, .ge-section, main { background: #fff; border: 1px solid #e1e7ee; border-radius: 6px; padding: .75rem 1rem; margin: 1rem auto; }
.card { max-height: none !important; height: auto !important; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; background: #fff; }
th, td { border: 1px solid #e1e7ee; padding: .4rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { background: #eef2f6; } .badge { background: #e4e9f0; border-radius: 4px; padding: .1rem .4rem; }
a { color: #1c5fa8; text-decoration: none; } a:hover { text-decoration: underline; }
.modal, .d-none:not([class*="d-md-"]), [hidden], button, .btn, input, .card:has(.btn-group), .cooltip .top, a[data-toggle="collapse"] { display: none !important; }
.collapse { display: block !important; height: auto !important; visibility: visible !important; }
.fas { font-style: normal; font-weight: 700; } .text-success { color: #1a7f37; } .text-danger { color: #b42318; }
.fa-check-circle::before { content: "\\2713"; } .fa-times::before { content: "\\2717"; } .fa-exclamation-triangle::before { content: "!"; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
"""
_GONE = [
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (
        r"<script\b[^>]*>.*?</script\s*>",  # drives the libraries that are gone
        r"<footer\b[^>]*>.*?</footer\s*>",  # advertising
        r"<link\b[^>]*>",
        r"""<(?:img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>""",
        r"""@import[^;]*//[^;]*;""",
        r"""url\(\s*["']?(?:https?:)?//[^)]*\)""",
        r"""@font-face\s*\{[^}]*\}""",
    )
]


def make_offline(folder: Path, title: str, results: Sequence[dict[str, Any]]) -> None:
    """Rewrite the pages below ``folder`` so that opening them loads nothing over a network, with a new ``index.html``.

    ``results`` are the lines of the entry page's table; their keys are its columns and ``success`` is a bool.
    """
    shutil.rmtree(
        folder / "static", ignore_errors=True
    )  # four megabytes of fonts and pictures, needed by nothing that is left
    for path in sorted(folder.rglob("*.html")):
        html = path.read_text(encoding="utf-8")
        for gone in _GONE:
            html = gone.sub("", html)
        path.write_text(html.replace("</head>", f"<style>{_STYLE}</style></head>", 1), encoding="utf-8")
    (folder / "index.html").write_text(_index(folder, title, results), encoding="utf-8")


def _index(folder: Path, title: str, results: Sequence[dict[str, Any]]) -> str:
    failed = sum(not result["success"] for result in results)
    verdict = "all expectations hold" if not failed else f"{failed} of {len(results)} expectations fail"
    names = list(results[0]) if results else []
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_cell(r[name])}</td>" for name in names) + "</tr>" for r in results)
    links = "".join(
        f'<li><a href="{escape(path.relative_to(folder).as_posix())}">{label}</a></li>'
        for label, part in (("Validation results", "validations"), ("Expectation suite", "expectations"))
        for path in sorted((folder / part).rglob("*.html"))
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1><p>{verdict}</p><table><tr>{head}</tr>{body}</table>"
        f"<h2>Pages of Great Expectations</h2><ul>{links}</ul></main></body></html>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return f'<span class="text-{"success" if value else "danger"}">{"✓ holds" if value else "✗ fails"}</span>'
    return escape(str(value))
