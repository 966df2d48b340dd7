"""Tables and pictures of rows, as people see them in the metadata."""

from __future__ import annotations

from ftplatform.core.rows import Message, Row
from ftplatform.data.curation.profile_picture import draw_profile
from ftplatform.data.curation.schema import frame
from ftplatform.data.tables import sample_table

ASK = (Message("user", "Which one?", False),)


def test_every_kind_of_row_shows_what_it_teaches() -> None:
    rows = [
        Row((*ASK, Message("assistant", "This one.")), "a:1"),
        Row(
            ASK,
            "a:2",
            kind="preference",
            chosen=(Message("assistant", "Good."),),
            rejected=(Message("assistant", "Bad."),),
        ),
        Row((*ASK, Message("assistant", "Hm.")), "a:3", kind="labelled", label=False),
        Row(ASK, "a:4", kind="prompt"),
        Row((), "a:5", kind="text", text="Once upon a time."),
    ]
    lines = sample_table(rows).splitlines()[2:]
    assert lines == [
        "| a:1 | Which one? | This one. |  |",
        "| a:2 | Which one? | chosen: Good. / rejected: Bad. |  |",
        "| a:3 | Which one? | bad: Hm. |  |",
        "| a:4 | Which one? |  |  |",
        "| a:5 |  | Once upon a time. |  |",
    ]


def test_the_profile_is_a_picture_whatever_there_is_to_draw() -> None:
    rows = [Row((*ASK, Message("assistant", "$x^2$")), f"a:{i}") for i in range(3)]
    full = draw_profile(frame(rows), {f"answer {i} $": i + 1 for i in range(30)}, {"en": 3}, {"train": 3}, {"leak": 1})
    empty = draw_profile(frame([]), {}, {}, {"train": 0}, {})
    assert full.startswith(b"\x89PNG")
    assert empty.startswith(b"\x89PNG")
    assert full != empty
