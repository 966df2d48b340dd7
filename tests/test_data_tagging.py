"""Tags: by rule, by an installed classifier, and never over what a row brings itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ftplatform.core.dataset_config import TaggingConfig, TagRule
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.language.tagging import open_tagger

RULES = (
    TagRule(tag="topic", value="refund", pattern="(?i)refund|money back"),
    TagRule(tag="topic", value="order", pattern=r"(?i)\border\b"),
    TagRule(tag="tone", value="urgent", pattern="!{2,}|जल्दी"),
)


def chat(question: str, tags: dict[str, str] | None = None) -> Row:
    return Row(
        (Message("system", "refund"), Message("user", question), Message("assistant", "refund!!")), "f:1", tags or {}
    )


def test_the_first_matching_rule_of_a_tag_sets_it_from_the_user_turns_or_the_document() -> None:
    tag = open_tagger(TaggingConfig(rules=RULES))
    rows = [
        chat("Refund my order!!"),
        chat("where is my ORDER"),
        chat("hello"),
        Row((), "f:2", kind="text", text="जल्दी करो"),
    ]
    assert tag(rows) == [{"topic": "refund", "tone": "urgent"}, {"topic": "order"}, {}, {"tone": "urgent"}]
    assert tag([]) == []


def test_a_tag_of_the_row_itself_stays() -> None:
    tag = open_tagger(TaggingConfig(rules=RULES))
    row = chat("Refund!!", {"topic": "mine", "other": "1"})
    assert tag([row]) == [{"topic": "mine", "other": "1", "tone": "urgent"}]
    assert row.tags == {"topic": "mine", "other": "1"}
    untouched = chat("hello", {"topic": "mine"})
    assert tag([untouched])[0] is untouched.tags


@pytest.mark.parametrize("pattern", ["(?=x)", "(a", "[", r"\1", "a**"])
def test_a_pattern_that_cannot_be_used_is_named(pattern: str) -> None:
    with pytest.raises(InvalidConfig, match=r"tagging.rules\[2\] \(tag 'late'\)") as error:
        open_tagger(TaggingConfig(rules=(RULES[0], TagRule(tag="late", value="x", pattern=pattern))))
    assert repr(pattern) in str(error.value)


def test_a_pattern_made_to_explode_takes_linear_time() -> None:
    tag = open_tagger(TaggingConfig(rules=(TagRule(tag="a", value="x", pattern="(a+)+b"),)))
    assert tag([chat("a" * 100_000)]) == [{}]


@pytest.fixture
def classifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers some classifiers, as pip would leave it."""
    (tmp_path / "tenant_tags.py").write_text(
        "def by_length(texts):\n    return [{'size': 'long' if len(t) > 10 else 'short', 'topic': 'other'} for t in texts]\n"
        "def too_few(texts):\n    return []\n"
        "def numbers(texts):\n    return [{'size': 1} for _ in texts]\n"
        "def broken(texts):\n    raise ZeroDivisionError('no')\n"
        "value = 3\n"
    )
    info = tmp_path / "tenant_tags-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tenant-tags\nVersion: 1.0\n")
    names = ("by_length", "too_few", "numbers", "broken", "value", "gone")
    (info / "entry_points.txt").write_text(
        "[ftplatform.tag_classifiers]\n" + "".join(f"{name} = tenant_tags:{name}\n" for name in names)
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("classifiers")
def test_a_classifier_fills_what_row_and_rules_left_open() -> None:
    tag = open_tagger(TaggingConfig(rules=RULES, classifier="tenant_tags:by_length"))
    rows = [chat("hello"), chat("refund my order please"), chat("hello", {"size": "mine"})]
    assert tag(rows) == [
        {"size": "short", "topic": "other"},
        {"size": "long", "topic": "refund"},
        {"size": "mine", "topic": "other"},
    ]
    assert pickle.loads(pickle.dumps(TaggingConfig(rules=RULES, classifier="tenant_tags:by_length"))) is not None


@pytest.mark.usefixtures("classifiers")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("too_few", "got 2 texts and gave a list of 0"),
        ("numbers", "gave {'size': 1}: accepted is a dict"),
        ("broken", r"failed on 2 texts: ZeroDivisionError\('no'\)"),
    ],
)
def test_a_classifier_that_gives_something_else_is_named(name: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=f"tenant_tags:{name}.*{said}"):
        open_tagger(TaggingConfig(classifier=f"tenant_tags:{name}"))([chat("a"), chat("b")])


@pytest.mark.usefixtures("classifiers")
@pytest.mark.parametrize(("name", "said"), [("gone", "cannot be loaded"), ("value", "accepted is a function")])
def test_a_classifier_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        open_tagger(TaggingConfig(classifier=f"tenant_tags:{name}"))


@pytest.mark.usefixtures("classifiers")
def test_only_what_an_installed_package_offers_can_be_called() -> None:
    with pytest.raises(InvalidConfig, match=r"offered are: .*tenant_tags:by_length"):
        open_tagger(TaggingConfig(classifier="subprocess:run"))
