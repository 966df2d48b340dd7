"""Duplicates: equal rows by their keys, similar rows by their shingles."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftplatform.core.rows import Message, Row
from ftplatform.data.compare import dedup
from ftplatform.data.compare.columns import DATA, TEST_FILE, Columns, ColumnWriter, block_keys, key_array
from ftplatform.data.compare.dedup import SortedKeys, Versions, compare_versions, find_exact, first_equal
from ftplatform.data.compare.minhash import ANSWER, QUESTION, Banding, shingles, template_shingles
from ftplatform.data.compare.near import NEIGHBOURS, find_near, jaccard
from ftplatform.data.compare.words import hash_words, ngrams
from ftplatform.data.text import normalise

UNTIMED = settings(deadline=None)
NONE = np.zeros(0, np.uint64)


def row(question: str, answer: str = "A", **more: object) -> Row:
    return Row((Message("user", question, False), Message("assistant", answer)), "a.jsonl:1", **more)  # type: ignore[arg-type]


def columns(folder: Path, rows: list[Row], block: int = 7) -> Columns:
    writer = ColumnWriter(folder)
    for begin in range(0, len(rows), block):
        writer.add(block_keys(rows[begin : begin + block]))
    return writer.close()


def exact(rows: list[Row]) -> tuple[list[int], int]:
    keys = block_keys(rows)
    found = find_exact(keys.exact, keys.subject)
    return np.flatnonzero(found.keep).tolist(), found.conflicting


def sentence(rng: random.Random, words: int) -> str:
    return " ".join("".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(words))


# Equal rows


def test_duplicates_differ_only_in_case_outer_space_and_unicode_form() -> None:
    rows = [row("Où est ma carte?"), row("  où est ma carte?\n", "a"), row("Ou\u0300 est ma carte?", "A ")]
    assert exact([*rows, row("Ou est ma carte?")]) == ([0, 3], 0)


def test_questions_with_several_answers_are_kept_and_reported() -> None:
    rows = [row("q", "yes"), row("r", "1"), row("Q ", "no"), row("q", "Yes"), row("q", "maybe")]
    keys = block_keys(rows)
    found = find_exact(keys.exact, keys.subject)
    assert found.keep.tolist() == [True, True, True, False, True]
    assert found.first.tolist() == [0, 1, 2, 0, 4]
    assert (found.conflicts, found.conflicting) == ([[0, 2, 4]], 1)


def test_several_labelled_or_preferred_answers_contradict_only_when_the_judgement_does() -> None:
    def pair(better: str, worse: str) -> Row:
        turns = [(Message("assistant", text),) for text in (better, worse)]
        return Row((Message("user", "q", False),), "a:1", kind="preference", chosen=turns[0], rejected=turns[1])

    labelled = [row("q", "a", kind="labelled", label=True), row("q", "b", kind="labelled", label=False)]
    assert exact([*labelled, pair("a", "b"), pair("a", "c")]) == ([0, 1, 2, 3], 0)
    assert exact([*labelled, row("q", "A", kind="labelled", label=False)])[1] == 1
    assert exact([pair("a", "b"), pair("b", "a"), pair("A", "b ")]) == ([0, 1], 1)


def test_documents_are_the_same_by_their_text() -> None:
    documents = [Row((), f"a:{i}", kind="text", text=text) for i, text in enumerate(["One.", "Two.", " ONE."])]
    assert exact(documents) == ([0, 1], 0)


@UNTIMED
@given(st.lists(st.tuples(st.sampled_from(["q", "Q ", "r"]), st.sampled_from("abAB")), max_size=30))
def test_removing_duplicates_twice_removes_no_more(pairs: list[tuple[str, str]]) -> None:
    rows = [row(q, a) for q, a in pairs]
    kept, conflicting = exact(rows)
    again = exact([rows[i] for i in kept])
    assert again == (list(range(len(kept))), conflicting)
    assert len(kept) == len({(normalise(q), normalise(a)) for q, a in pairs})


@UNTIMED
@given(
    st.lists(st.binary(min_size=1, max_size=1), max_size=50), st.lists(st.binary(min_size=1, max_size=1), max_size=9)
)
def test_first_equal_and_match_agree_with_a_dictionary(keys: list[bytes], others: list[bytes]) -> None:
    # Equal upper halves with other lower ones, and the other way round.
    wide = [bytes([k[0] % 3]) * 8 + bytes([k[0] % 5]) * 8 for k in keys]
    against = [bytes([k[0] % 3]) * 8 + bytes([k[0] % 5]) * 8 for k in others]
    with pytest.MonkeyPatch.context() as small:
        small.setattr(dedup, "_SORTED_AT_ONCE", 7)
        assert first_equal(key_array(wide)).tolist() == [wide.index(k) for k in wide]
        found = SortedKeys(key_array(against)).find(key_array(wide)).tolist()
    assert found == [against.index(k) if k in against else -1 for k in wide]


def test_rows_outside_the_mask_are_neither_dropped_nor_compared() -> None:
    keys = block_keys([row("q"), row("q"), row("q")])
    found = find_exact(keys.exact, keys.subject, np.array([False, True, True]))
    assert found.keep.tolist() == [True, True, False]


def test_versions_are_compared_by_their_distinct_rows() -> None:
    now, before = (block_keys([row(q) for q in asked]).exact for asked in ("abbc", "bccdd"))
    assert compare_versions(now, before) == Versions(new=1, kept=2, gone=1)


def test_columns_are_the_same_however_the_rows_are_cut_into_blocks(tmp_path: Path) -> None:
    rows = [row(f"question {i} of many", f"answer {i}") for i in range(50)]
    cut, whole = columns(tmp_path / "a", rows, 7), columns(tmp_path / "b", rows, 50)
    for name in ("exact", "words", "words_end", "question_words", "learned_count"):
        assert np.array_equal(getattr(cut, name), getattr(whole, name))


# Words and shingles


def words_of(text: str) -> int:
    return int(hash_words([text])[1][0])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("hello, world!", 2),
        ("don't", 2),
        ("हिन्दी भाषा।", 2),
        ("你好世界", 4),
        ("東京は好き", 5),
        ("2+2", 3),
        ("", 0),
        ("?!…", 0),
        ("a\nb\u00a0c", 3),
        ("ok 👍", 2),
    ],
)
def test_words_of_every_script(text: str, count: int) -> None:
    assert words_of(text) == count


@UNTIMED
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=15), min_size=1, max_size=8))
def test_the_words_of_a_text_do_not_depend_on_its_neighbours(texts: list[str]) -> None:
    words, counts = hash_words(texts)
    alone = [hash_words([text])[0] for text in texts]
    assert counts.tolist() == [len(one) for one in alone]
    assert np.array_equal(words, np.concatenate(alone))


@UNTIMED
@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6), st.integers(1, 5), st.booleans())
def test_ngrams_agree_with_a_plain_loop(texts: list[list[int]], size: int, short: bool) -> None:
    words = np.array([w for text in texts for w in text], np.uint32)
    values, counts = ngrams(words, np.array([len(t) for t in texts], np.int64), size, short=short)
    plain = [
        [tuple(t[i : i + size]) for i in range(len(t) - size + 1)] or ([tuple(t)] if short and t else []) for t in texts
    ]
    assert counts.tolist() == [len(p) for p in plain]
    flat = [gram for p in plain for gram in p]
    assert all((values[i] == values[j]) == (flat[i] == flat[j]) for i, j in combinations(range(len(flat)), 2))


# Similar rows


def similarity(left: str, right: str) -> float:
    """Jaccard index of word 3-grams, the plain way; for texts without punctuation."""
    a, b = ({tuple(t.split()[i : i + 3]) for i in range(len(t.split()) - 2)} for t in (left, right))
    return len(a & b) / len(a | b)


def test_the_similarity_is_the_jaccard_index_of_word_shingles(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = [sentence(rng, 30) for _ in range(20)]
    pairs = [
        (text, " ".join([*text.split()[: 30 - cut], *sentence(rng, cut).split()])) for cut, text in enumerate(texts)
    ]
    data = columns(tmp_path, [row(text) for pair in pairs for text in pair])
    left, right = np.arange(0, 40, 2), np.arange(1, 40, 2)
    found = jaccard(data, left, data, right, QUESTION, NONE)
    assert found == pytest.approx([similarity(a, b) for a, b in pairs])
    assert jaccard(data, left, data, right, ANSWER, NONE).tolist() == [1.0] * 20


def test_the_similarity_of_long_documents_is_close_to_the_true_one(tmp_path: Path) -> None:
    rng = random.Random(2)
    text = sentence(rng, 50_000).split()
    other = [*text[:45_000], *sentence(rng, 5_000).split()]
    data = columns(tmp_path, [row(" ".join(text)), row(" ".join(other))])
    found = jaccard(data, np.array([0]), data, np.array([1]), QUESTION, NONE)
    assert found[0] == pytest.approx(45 / 55, abs=0.015)


def planted(pairs: int, seed: int) -> list[Row]:
    """Pairs of 40-word questions whose similarity goes from 0.5 to 1, among as many that are like nothing else."""
    rng = random.Random(seed)
    rows = []
    for _ in range(pairs):
        words = sentence(rng, 40).split()
        changed = rng.randint(0, 4)
        other = [*words[changed:], *sentence(rng, changed).split()] if rng.random() < 0.5 else words[changed:]
        rows += [row(" ".join(words)), row(" ".join(other)), row(sentence(rng, 40))]
    return rows


def test_planted_pairs_are_found_and_no_pair_is_below_the_threshold(tmp_path: Path) -> None:
    rows = planted(400, 3)
    data = columns(tmp_path, rows, 100)
    found = find_near(data, np.ones(len(rows), bool), 0.85, folder=tmp_path)
    true = {
        3 * i + 1
        for i in range(400)
        if similarity(rows[3 * i].messages[0].content, rows[3 * i + 1].messages[0].content) >= 0.85
    }
    assert len(true) > 150
    assert set(found.later.tolist()) <= true
    assert len(found.later) >= 0.99 * len(true)
    for later, earlier, like in zip(found.later, found.earlier, found.similarity, strict=True):
        assert earlier < later
        assert like == pytest.approx(similarity(rows[earlier].messages[0].content, rows[later].messages[0].content))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=7), max_size=25), st.sampled_from([0.5, 0.85]))
def test_every_pair_reported_is_similar_and_every_equal_one_is_reported(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], threshold: float
) -> None:
    folder = tmp_path_factory.mktemp("near")
    data = columns(folder, [row(" ".join(words)) for words in texts])
    found = find_near(data, np.ones(len(texts), bool), threshold, folder=folder)
    like = jaccard(data, found.later, data, found.earlier, QUESTION, template_shingles(data, np.arange(len(texts))))
    assert (like >= threshold).all()
    assert {i for i, words in enumerate(texts) if words in texts[:i]} <= set(found.later.tolist())


def test_the_same_question_with_another_answer_is_no_near_duplicate(tmp_path: Path) -> None:
    rng = random.Random(4)
    long = sentence(rng, 200)
    rows = [row(long, "yes indeed"), row(long + " now", "yes, indeed"), row(long + " then", "no, never")]
    found = find_near(columns(tmp_path, rows), np.ones(3, bool), 0.85, folder=tmp_path)
    assert (found.later.tolist(), found.earlier.tolist()) == ([1], [0])
    boilerplate = [row(sentence(rng, 8), long) for _ in range(5)]
    assert not len(find_near(columns(tmp_path, boilerplate), np.ones(5, bool), 0.85, folder=tmp_path).later)


def test_rows_that_share_a_long_instruction_are_compared_by_the_rest(tmp_path: Path) -> None:
    rng = random.Random(5)
    instruction = sentence(rng, 200)
    asked = [sentence(rng, 6) for _ in range(60)]
    rows = [row(f"{instruction}: {text}") for text in [*asked, asked[7].upper(), asked[7] + "?"]]
    found = find_near(columns(tmp_path, rows), np.ones(62, bool), 0.85, folder=tmp_path)
    assert found.later.tolist() == [60, 61]
    assert len(template_shingles(columns(tmp_path, rows), np.arange(62))) >= 198


def test_a_bucket_of_any_size_is_compared_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftplatform.data.compare import near

    compared = 0

    def counted(*args: object) -> np.ndarray:
        nonlocal compared
        compared += len(args[1])  # type: ignore[arg-type]
        return jaccard(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(near, "jaccard", counted)
    rng = random.Random(6)
    text = sentence(rng, 12)
    rows = [row(f"{text} {i % 2}", str(i)) for i in range(300)]
    monkeypatch.setattr(near, "template_shingles", lambda *_: NONE)
    found = find_near(columns(tmp_path, rows), np.ones(300, bool), 0.5, folder=tmp_path)
    assert not len(found.later)
    assert compared <= 300 * (NEIGHBOURS + 1) * 2 * Banding.of(0.5).bands


def test_blocks_worked_in_another_process_give_the_same(tmp_path: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor

    rows = planted(60, 7)
    data = columns(tmp_path, rows)
    here = find_near(data, np.ones(len(rows), bool), 0.85, folder=tmp_path)
    with ProcessPoolExecutor(1) as pool:
        there = find_near(data, np.ones(len(rows), bool), 0.85, folder=tmp_path, mapper=pool.map)
    assert np.array_equal(here.later, there.later)
    assert np.array_equal(here.similarity, there.similarity)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.85, 0.95])
def test_the_bands_find_99_percent_at_the_threshold(threshold: float) -> None:
    banding = Banding.of(threshold)
    assert 1 - (1 - threshold**banding.values) ** banding.bands >= 0.99
    assert banding.bands * banding.values <= 64


def test_own_test_rows_are_outside_when_the_mask_says_so(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path)
    writer.add(block_keys([row("a b c d e f")]), DATA)
    writer.add(block_keys([row("a b c d e f")]), TEST_FILE)
    data = writer.close()
    assert not len(find_near(data, data.origin == DATA, 0.85, folder=tmp_path).later)
    assert shingles(data, np.array([1]), QUESTION, NONE)[1].tolist() == [4]
