"""``dataset.yaml`` is read with care: it comes from outside."""

from __future__ import annotations

import pytest

from ftplatform.core.errors import InvalidConfig
from ftplatform.data.importing.settings_file import DEEPEST, LARGEST, read_settings

BOMB = 'a: &a ["x","x"]\n' + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abc", "bcd", strict=True))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (BOMB.encode(), "line 2, column 8: an alias"),
        (b"tagging: &t {rules: [*t]}\n", "an alias"),
        (b"max_bad_rows: 0\nsystem: S\nmax_bad_rows: 5\n", "line 3, column 1: the key 'max_bad_rows'"),
        (b"split: {test: 0.1, test: 0.2}\n", "the key 'test'"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, f"more than {DEEPEST}"),
        (b"a: x\n" * LARGEST, "bytes"),
        (b"!!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("system: café\n".encode("latin-1"), "dataset.yaml cannot be used"),
        (b"a: [1\n", "dataset.yaml cannot be used in line"),
        (b"system: 2020-99-99\n", "month"),
    ],
)
def test_a_settings_file_made_to_harm_is_refused_with_its_name_and_place(raw: bytes, said: str) -> None:
    with pytest.raises(InvalidConfig, match=r"dataset\.yaml") as error:
        read_settings(raw, "dataset.yaml")
    assert said in str(error.value)


def test_an_ordinary_settings_file_is_read_as_it_stands() -> None:
    assert read_settings(b"max_bad_rows: 5\nsplit: {test: 0.1}\ntest: 1\n", "dataset.yaml") == {
        "max_bad_rows": 5,
        "split": {"test": 0.1},
        "test": 1,
    }
    assert read_settings(b"", "dataset.yaml") is None
    assert read_settings("max_bad_rows: 3\n".encode("utf-16"), "dataset.yaml") == {"max_bad_rows": 3}
