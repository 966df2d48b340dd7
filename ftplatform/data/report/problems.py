"""The codes a row report can hold, each with what is accepted and how to fix it.

Names follow OpenAI's data-preparation checks and its validators and Together's file check where those have one, so
that tools written for them understand ours. The texts are shown to customers.
"""

from __future__ import annotations

from typing import Literal

from ftplatform.core.rows import Finding
from ftplatform.data.text import shorten

_ROLES = "system, user, assistant, tool"

# code: (accepted, fix)
TEXTS: dict[str, tuple[str, str]] = {
    # one row
    "data_type": ("one JSON object per line", "write every example as one {...} object on its own line"),
    "missing_messages_list": ("a list of at least one message under 'messages'", "add the list of messages"),
    "message_missing_key": ("role and content in every message", "add the missing key"),
    "message_unrecognized_key": (
        "role, content, name, weight, tool_calls, tool_call_id",
        "remove the key",
    ),
    "unrecognized_role": (
        _ROLES + " (developer is read as system, function as tool)",
        "rename the role or leave the message out",
    ),
    "missing_content": ("a text that is not empty", "write the text or remove the example"),
    "example_missing_assistant_message": ("at least one assistant message", "add the answer the model should learn"),
    "example_missing_user_message": ("at least one user message", "add the question that the answer belongs to"),
    "bad_weight": ("0 or 1, on assistant messages only", "remove the weight or set it to 0 or 1"),
    "special_token_in_content": ("text without control tokens of chat templates", "remove or rewrite the token"),
    "unsupported_content": (
        "text: a string, or a list of text parts",
        "describe the picture, sound or file in words, or leave the example out",
    ),
    "mixed_formats": ("one format per file", "put the examples of another format in a file of their own"),
    "wrong_cell_count": ("as many cells as the header has columns", "quote cells that hold the separator"),
    "invalid_json": ("one complete JSON object per line", "check quotes, commas and brackets"),
    "invalid_csv": ("quotes that are closed, doubled inside a quoted cell", "check the quotes from this line on"),
    "line_too_long": ("lines and elements of at most 16 MB", "split the document into several rows"),
    "nested_too_deeply": (
        "lists and objects inside each other to a depth of a hundred or so",
        "flatten the value, or keep it as text",
    ),
    "duplicate_key": ("every key once in an object", "remove one of the two, or rename it"),
    "bad_label": ("true or false (also 1 or 0, yes or no)", "write whether the answer is a good one"),
    "bad_tool_call": ("tools, calls and results in OpenAI's form", "see the documentation of openai-chat for the form"),
    "no_preference": ("two answers that differ", "remove the example: nothing is learned from it"),
    "control_character": ("text without NUL characters", "remove the character"),
    "number_out_of_range": ("numbers of up to 64 bits", "write the number as a text"),
    "not_utf8": ("UTF-8, with or without byte order mark", "save the file as UTF-8"),
    # a whole file or upload
    "truncated_file": (
        "a file that ends after a complete example",
        "the upload was cut off: upload the whole file again",
    ),
    "empty_file": ("at least one example", "upload a file with examples or delete it"),
    "unknown_format": (
        "a known format, named in the documentation, as .jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt or .md",
        "rename the keys, or set 'format' in dataset.yaml",
    ),
    "missing_column": (
        "the columns named in dataset.yaml, or a well-known pair such as prompt, completion",
        "set columns.user and columns.assistant in dataset.yaml",
    ),
    "decompression_bomb": (
        "compressed files that unpack to a size in proportion",
        "upload the file uncompressed, or in several parts",
    ),
    "damaged_file": ("a file that can be read to its end", "write the file again, and look whether it opens elsewhere"),
    "unsafe_file_name": ("a name without control characters, backslashes or '..'", "rename the file"),
    "duplicate_file": ("every file once", "delete one of the two files"),
    "missing_test_file": (
        "a file of that name among the uploads",
        "upload the file or remove its name from split in dataset.yaml",
    ),
    "too_few_examples": ("at least min_rows examples", "add examples, or lower min_rows in dataset.yaml"),
    # found when rows become tokens
    "zero_supervised_tokens": ("an assistant message whose weight is not 0", "give one assistant message weight 1"),
    "too_long": (
        "examples that fit into the recipe's sequence length",
        "shorten or split the example, or train with a recipe of greater length",
    ),
    "answer_cut_by_limit": (
        "the whole last answer inside the recipe's sequence length",
        "shorten the turns before the answer, or train with a recipe of greater length",
    ),
    "stop_token_untrained": (
        "a loss on the token that ends the answer",
        "use the platform's template of the model family, or one that ends the turn inside its generation markers",
    ),
    # advice: the row is taken as it stands
    "last_message_not_assistant": (
        "an assistant message at the end",
        "turns after the last answer are left out: nothing is learned from them",
    ),
    "roles_not_alternating": (
        "an optional system message, then user and assistant in turns",
        "check the order of the messages",
    ),
    "extra_column": (
        "only the columns of the format",
        "the column is ignored; remove it or name it in dataset.yaml under columns.tags",
    ),
    "duplicate_row": ("every example once", "remove one of the two: curation keeps the first"),
    "empty_field": ("a text in every turn that is there", "write the text or leave the turn out"),
    "long_row": (
        "mostly examples of up to 10,000 characters",
        "see whether the longest are meant: a recipe's sequence length may cut or drop them",
    ),
    "all_prompts_identical": (
        "prompts that differ",
        "check the columns: with one prompt, the model learns to answer at random among the answers",
    ),
    "common_prefix": (
        "a text that differs from row to row",
        "take the shared beginning out of the rows; one shared by every prompt belongs into 'system' of dataset.yaml",
    ),
    "common_suffix": ("a text that differs from row to row", "take the shared end out of the rows, unless it is meant"),
}

FILE_CODES = frozenset(
    {
        "truncated_file",
        "empty_file",
        "unknown_format",
        "missing_column",
        "missing_test_file",
        "damaged_file",
        "decompression_bomb",
        "unsafe_file_name",
        "too_few_examples",
    }
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


def is_whole(found: Finding) -> bool:
    """Whether an error is of a whole file or upload, which ``max_bad_rows`` does not tolerate."""
    return found.line == 0 or found.code in FILE_CODES


def printable(name: str) -> str:
    """A file name as it may be shown: control characters, line breaks and half characters written as escapes."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)
