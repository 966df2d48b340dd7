"""The codes a row report can hold, each with what is accepted and how to fix it.

Names follow OpenAI's data-preparation checks and its validators and Together's file check where those have one, so
that tools written for them understand ours. The texts are shown to customers.
"""

from __future__ import annotations

from typing import Literal

from ftplatform.core.rows import Finding
from ftplatform.data.text import shorten

_ROLES = "system, user, assistant"

# code: (accepted, fix)
TEXTS: dict[str, tuple[str, str]] = {
    "data_type": ("one JSON object per line", "write every example as one {...} object on its own line"),
    "missing_messages_list": ("a list of at least one message under 'messages'", "add the list of messages"),
    "message_missing_key": ("role and content in every message", "add the missing key"),
    "message_unrecognized_key": (
        "role, content, weight (name, refusal and empty tool_calls are ignored)",
        "remove the key",
    ),
    "unrecognized_role": (_ROLES + " (developer is read as system)", "rename the role or leave the message out"),
    "missing_content": ("a text that is not empty", "write the text or remove the example"),
    "example_missing_assistant_message": ("at least one assistant message", "add the answer the model should learn"),
    "example_missing_user_message": ("at least one user message", "add the question that the answer belongs to"),
    "zero_supervised_tokens": ("an assistant message whose weight is not 0", "give one assistant message weight 1"),
    "last_message_not_assistant": (
        "an assistant message at the end",
        "turns after the last answer are left out: nothing is learned from them",
    ),
    "roles_not_alternating": (
        "an optional system message, then user and assistant in turns",
        "check the order of the messages",
    ),
    "bad_weight": ("0 or 1, on assistant messages only", "remove the weight or set it to 0 or 1"),
    "special_token_in_content": ("text without control tokens of chat templates", "remove or rewrite the token"),
    "extra_column": (
        "only the columns of the format",
        "the column is ignored; remove it or name it in dataset.yaml under columns.tags",
    ),
    "wrong_cell_count": ("as many cells as the header has columns", "quote cells that hold the separator"),
    "mixed_formats": ("one format per file", "put the examples of another format in a file of their own"),
    "invalid_json": ("one complete JSON object per line", "check quotes, commas and brackets"),
    "invalid_csv": ("quotes that are closed, doubled inside a quoted cell", "check the quotes from this line on"),
    "not_utf8": ("UTF-8, with or without byte order mark", "save the file as UTF-8"),
    "truncated_file": (
        "a file that ends after a complete example",
        "the upload was cut off: upload the whole file again",
    ),
    "empty_file": ("at least one example", "upload a file with examples or delete it"),
    "unknown_format": (
        "openai-chat, prompt-completion or alpaca as .jsonl; a table as .csv",
        "rename the keys, or set 'format' in dataset.yaml",
    ),
    "missing_column": (
        "the columns named in dataset.yaml, or a well-known pair such as prompt, completion",
        "set columns.user and columns.assistant in dataset.yaml",
    ),
    "duplicate_file": ("every file once", "delete one of the two files"),
    "missing_test_file": (
        "a file of that name among the uploads",
        "upload the file or remove its name from split.test_files",
    ),
    "too_few_examples": ("at least min_rows examples", "add examples, or lower min_rows in dataset.yaml"),
}

FILE_CODES = frozenset(
    {"truncated_file", "empty_file", "unknown_format", "missing_column", "missing_test_file", "too_few_examples"}
)
"""Problems of a whole file or upload: no tolerance for bad rows covers them."""


def finding(
    code: str,
    file: str,
    line: int,
    found: object,
    path: str = "",
    severity: Literal["error", "warning"] = "error",
    accepted: str = "",
    fix: str = "",
) -> Finding:
    """A finding with the code's standard texts; ``found`` is shortened and masked, ``line`` 0 means the whole file."""
    standard_accepted, standard_fix = TEXTS[code]
    return Finding(
        code, severity, file, line, shorten(path), shorten(found), accepted or standard_accepted, fix or standard_fix
    )
