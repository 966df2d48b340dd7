"""What a run prints: a short line per message, for people who follow it in a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import dagster as dg

_sink: Callable[[str], object] | None = None


def print_to(sink: Callable[[str], object] | None) -> None:
    """Have the lines of this process's runs go to ``sink`` and not to standard error; None undoes it.

    For a terminal with a bar at its foot: standard error is captured while a step runs, and would come out in the bar's midst.
    """
    global _sink
    _sink = sink


@dg.logger(
    {"log_level": dg.Field(str, is_required=False, default_value="INFO"), "name": dg.Field(str, is_required=False)}
)
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """``12:03:10 adapter: training: step 40 of 120``; every event stays in the Dagster UI, whatever is printed."""
    logger = logging.Logger("ftplatform.runs", level=context.logger_config["log_level"].upper())
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Short())
    logger.addHandler(handler)
    return logger


class _Handler(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        if _sink is None:
            super().emit(record)
        else:
            _sink(self.format(record))


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {}) or {}
        step = meta.get("step_key") or meta.get("job_name") or ""
        text = meta.get("orig_message") or record.getMessage()
        event = meta.get("dagster_event")
        failure = getattr(event, "step_failure_data", None) if event is not None and event.is_step_failure else None
        if failure is not None and failure.user_failure_data is not None:
            text = f"failed: {failure.user_failure_data.description}"
        elif failure is not None:
            text = f"failed:\n{failure.error_display_string}"
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        return f"{self.formatTime(record, '%H:%M:%S')} {level}{step}: {text}"
