"""An example of every code: what brings it about, and the same without the problem.

The documentation and the report page show them; the tests import each and compare what is found.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    bad: str
    good: str
    name: str = "rows.jsonl"
    """Name of the file that holds them; empty where they are described in words."""
    encoding: str = "utf-8"
    """In which ``bad`` is written."""


def _chat(turns: str, more: str = "") -> str:
    return '{"messages": [' + turns + "]" + more + "}"


def _words(bad: str, good: str) -> Example:
    return Example(bad, good, name="")


_USER = '{"role": "user", "content": "Where is my order?"}'
_ANSWER = '{"role": "assistant", "content": "On its way."}'
_CALL = (
    '{"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", '
    '"function": {"name": "find_order", "arguments": "{}"}}]}'
)
_RESULT = '{"role": "tool", "tool_call_id": "c1", "content": "On its way."}'
_GOOD = _chat(f"{_USER}, {_ANSWER}")
_PAIR = '{"prompt": "Where is my order?", "completion": "On its way."}'
_TABLE = "prompt,completion\n"
_POLITE = "Thank you for writing to us. "


def _pairs(answer: str) -> str:
    """Six rows; ``{}`` in ``answer`` is a word that differs."""
    words = ("One", "Two", "Three", "Four", "Five", "Six")
    return "\n".join(f'{{"prompt": "{word}?", "completion": "{answer.format(word)}"}}' for word in words)


EXAMPLES: dict[str, Example] = {
    "data_type": Example(f'{_PAIR}\n["Why?", "Because."]', f'{_PAIR}\n{{"prompt": "Why?", "completion": "Because."}}'),
    "missing_messages_list": Example('{"messages": []}', _GOOD),
    "message_missing_key": Example(_chat(f'{_USER}, {_ANSWER}, {{"role": "user"}}, {_ANSWER}'), _GOOD),
    "message_unrecognized_key": Example(
        _chat(f'{_USER}, {{"role": "assistant", "content": "On its way.", "loss": 1}}'),
        _chat(f'{_USER}, {{"role": "assistant", "content": "On its way.", "weight": 1}}'),
    ),
    "unrecognized_role": Example(
        _chat(f'{{"role": "customer", "content": "Where is my order?"}}, {_USER}, {_ANSWER}'), _GOOD
    ),
    "missing_content": Example('{"prompt": "Where is my order?", "completion": ""}', _PAIR),
    "example_missing_assistant_message": Example(_chat(_USER), _GOOD),
    "example_missing_user_message": Example(_chat(_ANSWER), _GOOD),
    "bad_weight": Example(
        _chat(f'{_USER}, {{"role": "assistant", "content": "On its way.", "weight": 0.5}}'),
        _chat(f'{_USER}, {{"role": "assistant", "content": "On its way.", "weight": 1}}'),
    ),
    "special_token_in_content": Example(
        '{"prompt": "Where is my order?<|im_end|>", "completion": "On its way."}', _PAIR
    ),
    "unsupported_content": Example(
        _chat('{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "order.png"}}]}, ' + _ANSWER),
        _chat('{"role": "user", "content": [{"type": "text", "text": "Where is my order?"}]}, ' + _ANSWER),
    ),
    "bad_label": Example(f'{_PAIR[:-1]}, "label": "maybe"}}', f'{_PAIR[:-1]}, "label": true}}'),
    "bad_tool_call": Example(
        _chat(f'{_USER}, {{"role": "tool", "tool_call_id": "c1", "content": "On its way."}}, {_ANSWER}'),
        _chat(f"{_USER}, {_CALL}, {_RESULT}, {_ANSWER}"),
    ),
    "control_character": Example('{"prompt": "Where is my order?\\u0000", "completion": "On its way."}', _PAIR),
    "duplicate_key": Example(
        f'{_PAIR}\n{{"prompt": "Why?", "prompt": "When?", "completion": "Soon."}}',
        f'{_PAIR}\n{{"prompt": "When?", "completion": "Soon."}}',
    ),
    "no_preference": Example(
        '{"prompt": "Where is my order?", "chosen": "On its way.", "rejected": "On its way."}',
        '{"prompt": "Where is my order?", "chosen": "On its way.", "rejected": "No idea."}',
    ),
    "number_out_of_range": Example(
        _chat(_USER, ', "order": 123456789012345678901234567890'),
        _chat(_USER, ', "order": "123456789012345678901234567890"'),
    ),
    "mixed_formats": Example(f"{_PAIR}\n{_GOOD}", f"{_PAIR}\n" + _PAIR.replace("order", "parcel")),
    "wrong_cell_count": Example(
        f"{_TABLE}Where is my order?,Soon, I hope\n", f'{_TABLE}Where is my order?,"Soon, I hope"\n', "rows.csv"
    ),
    "invalid_json": Example("{'prompt': 'Where is my order?', 'completion': 'On its way.'}\n" + _PAIR, _PAIR),
    "invalid_csv": Example(
        f'{_TABLE}Where is my order?,"On its" way\n', f'{_TABLE}Where is my order?,"On ""its"" way"\n', "rows.csv"
    ),
    "line_too_long": _words("a line of 50 MB", "the document as several rows"),
    "nested_too_deeply": _words("ten thousand opening brackets in a row", "the value as text"),
    "not_utf8": Example(
        f'{_PAIR}\n{{"prompt": "Où?", "completion": "Déjà là."}}',
        f'{_PAIR}\n{{"prompt": "Où?", "completion": "Déjà là."}}',
        encoding="latin-1",
    ),
    "truncated_file": Example(f'{_PAIR}\n{{"prompt": "Where is my', f"{_PAIR}\n" + _PAIR.replace("order", "parcel")),
    "empty_file": Example("", _PAIR),
    "unknown_format": Example(
        '{"frage": "Wo ist es?", "antwort": "Unterwegs."}', '{"prompt": "Wo ist es?", "completion": "Unterwegs."}'
    ),
    "missing_column": Example(
        "frage,antwort\nWo ist es?,Unterwegs.\n", "prompt,completion\nWo ist es?,Unterwegs.\n", "rows.csv"
    ),
    "damaged_file": _words("a .parquet whose end is missing", "the file written anew"),
    "decompression_bomb": _words("1 MB of gzip that unpacks to 10 GB", "the file uncompressed"),
    "unsafe_file_name": _words("../rows.jsonl", "rows.jsonl"),
    "duplicate_file": _words("train.jsonl and copy.jsonl with the same bytes", "train.jsonl alone"),
    "missing_test_file": _words(
        "split.test_files: [test.jsonl], and no such file sent", "the file sent with the others"
    ),
    "too_few_examples": _words("5 rows with min_rows: 10", "10 rows; 50 to 100 for an effect"),
    "zero_supervised_tokens": Example(
        _chat(f'{_USER}, {{"role": "assistant", "content": "On its way.", "weight": 0}}'), _GOOD
    ),
    "too_long": _words("a row of 9,000 tokens with a recipe of max_length 4,096", "the document as three rows"),
    "answer_cut_by_limit": _words(
        "5,000 tokens of context before the answer, max_length 4,096", "the context shortened"
    ),
    "stop_token_untrained": _words(
        "a template that closes the marked answer before its end-of-turn token", "the token inside the markers"
    ),
    "last_message_not_assistant": Example(
        _chat(f'{_USER}, {_ANSWER}, {{"role": "user", "content": "Thanks!"}}'), _GOOD
    ),
    "roles_not_alternating": Example(_chat(f"{_USER}, {_USER}, {_ANSWER}"), _GOOD),
    "extra_column": Example(_PAIR[:-1] + ', "note": "from mail"}', _PAIR[:-1] + ', "tags": {"note": "from mail"}}'),
    "duplicate_row": Example(f"{_PAIR}\n{_PAIR}", f"{_PAIR}\n" + _PAIR.replace("order", "parcel")),
    "empty_field": Example(
        _chat(f"{_USER}, {_CALL}, {_RESULT.replace('On its way.', '')}, {_ANSWER}"),
        _chat(f"{_USER}, {_CALL}, {_RESULT}, {_ANSWER}"),
    ),
    "long_row": _words("most rows of 300 characters, one of 40,000", "that one looked at"),
    "all_prompts_identical": Example(
        "\n".join(f'{{"prompt": "Answer.", "completion": "{n}"}}' for n in ("One", "Two", "Three", "Four", "Five")),
        _pairs("It is {}."),
    ),
    "common_prefix": Example(_pairs(_POLITE + "{}."), _pairs("{}.")),
    "common_suffix": Example(_pairs("{}. Yours sincerely, the team"), _pairs("{}.")),
}
