"""Toxicity: the shipped classifier, word lists in any script, a classifier in a folder, and what a policy makes of the scores."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from ftplatform.core.dataset_config import ToxicityConfig
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message, Row
from ftplatform.data.language.toxicity import Toxicity, check_toxicity, measure, open_toxicity, score_rows

INSULT = "you are a fucking idiot"


def test_nothing_is_opened_when_the_policy_is_off() -> None:
    assert open_toxicity(ToxicityConfig(model="/nowhere")) is None


def test_the_shipped_classifier_scores_english_and_no_other_language() -> None:
    score = open_toxicity(ToxicityConfig(policy="flag"))
    assert score is not None
    found = score([INSULT, "Where is my order?", INSULT, INSULT, "यह बेवकूफ है"], ["en", "en", "und", "de", "hi"])
    assert found.dtype == np.float32
    assert found[0] > 0.95
    assert found[1] < 0.1
    assert found[2] == found[0]
    assert found[3:].tolist() == [0.0, 0.0]
    assert score([], []).shape == (0,)


def test_a_word_list_adds_to_the_classifier_for_its_own_language() -> None:
    score = open_toxicity(ToxicityConfig(policy="flag", words={"hi": ("गधा",), "any": ("Foo Bar",)}))
    assert score is not None
    texts = ["तू गधा है", "तू गधा है", "a FOO BAR b", INSULT]
    assert score(texts, ["hi", "mr", "en", "en"]).round(1).tolist() == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("गधा", "वह गधा है", True),
        ("गधा", "गधा।", True),
        ("गध", "गधा", False),
        ("गधा", "गधाधर जी आए", False),
        ("மடையன்", "நீ மடையன்!", True),
        ("ass", "my contactless class", False),
        ("ass", "ASS.", True),
        ("شیطان", "می\u200cشیطان", False),
        ("می\u200cروم", "میروم", True),
        ("笨蛋", "你是笨蛋吗", True),
        ("caf\u00e9", "CAFE\u0301!", True),
        ("a.b", "axb", False),
    ],
)
def test_words_are_whole_words_in_every_script(word: str, text: str, found: bool) -> None:
    score = open_toxicity(ToxicityConfig(policy="flag", model="words", words={"any": (word,)}))
    assert score is not None
    assert score([text], ["und"]).tolist() == [float(found)]


def test_word_lists_that_cannot_work_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="has no list"):
        open_toxicity(ToxicityConfig(policy="flag", model="words"))
    with pytest.raises(InvalidConfig, match="empty word"):
        open_toxicity(ToxicityConfig(policy="flag", model="words", words={"en": (" ",)}))


def write_classifier(folder: Path, labels: dict[int, str], problem_type: str | None = None) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=16,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        id2label=labels,
    )
    config.problem_type = problem_type
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_classifier_in_a_folder_scores_what_is_not_harmless(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = write_classifier(tmp_path / "model", {0: "not-hate", 1: "hate", 2: "offensive"})
    score = open_toxicity(ToxicityConfig(policy="flag", model=str(folder)))
    assert score is not None
    texts = ["good bad " * 30, "good", "bad bad", ""]
    found = score(texts, ["en", "hi", "und", "de"])
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        alone = 1 - model(input_ids=torch.tensor([[2]])).logits.softmax(1)[0, 0].item()
    assert found[1] == pytest.approx(alone, abs=1e-5)
    assert ((found > 0) & (found < 1)).all()
    assert score(texts[:2], ["en", "hi"]) == pytest.approx(found[:2], abs=1e-6)


def test_independent_labels_give_their_highest(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "model", {0: "toxic", 1: "insult"}, "multi_label_classification")
    score = open_toxicity(ToxicityConfig(policy="flag", model=str(folder)))
    assert score is not None
    assert 0 < score(["bad"], ["en"])[0] < 1


def test_a_folder_that_is_no_classifier_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"toxicity.model is .*nowhere.* config.json"):
        open_toxicity(ToxicityConfig(policy="flag", model=str(tmp_path / "nowhere")))
    folder = write_classifier(tmp_path / "model", {0: "sport", 1: "politics"})
    with pytest.raises(InvalidConfig, match="sport"):
        open_toxicity(ToxicityConfig(policy="flag", model=str(folder)))
    (folder / "model.safetensors").rename(folder / "gone")
    with pytest.raises(InvalidConfig, match="cannot be opened"):
        open_toxicity(ToxicityConfig(policy="flag", model=str(folder)))


def test_one_bad_turn_makes_a_long_row_toxic() -> None:
    score = open_toxicity(ToxicityConfig(policy="flag"))
    assert score is not None
    calm = Message(
        "assistant", "The parcel left our store in Pune on Monday and will reach your house by Thursday evening. " * 5
    )
    rows = [
        Row((calm,), "f:1"),
        Row((calm, Message("user", INSULT), calm), "f:2"),
        Row((), "f:3", kind="text", text=INSULT),
    ]
    found = score_rows(score, rows, ["en", "en", "hi"])
    assert found[0] < 0.3
    assert found[1] > 0.95
    assert found[2] == 0.0


def test_measures_of_blocks_add_up_in_any_order() -> None:
    scores = np.array([0.9, 0.1, 0.95, 0.8], dtype=np.float32)
    texts, sources = ["a" * 500, "b", "c", "d"], ["f:1", "f:2", "f:3", "f:4"]
    whole = measure(scores, texts, sources, 0.8)
    first, second = (measure(scores[part], texts[part], sources[part], 0.8) for part in (slice(0, 2), slice(2, 4)))
    assert first + second == second + first == whole
    assert (whole.rows, whole.toxic, whole.rate) == (4, 3, 0.75)
    assert [source for _, source, _ in whole.worst] == ["f:3", "f:1", "f:4"]
    assert max(len(text) for _, _, text in whole.worst) <= 100
    assert pickle.loads(pickle.dumps(whole)) == whole


@pytest.mark.parametrize(
    ("policy", "toxic", "passed"), [("fail", 1, True), ("fail", 2, False), ("flag", 90, True), ("drop", 90, True)]
)
def test_only_the_policy_fail_refuses_and_only_above_its_rate(policy: str, toxic: int, passed: bool) -> None:
    config = ToxicityConfig.model_validate({"policy": policy, "max_rate": 0.01})
    check = check_toxicity(Toxicity(100, toxic, ((0.9, "f:1", "text"),)), config)
    assert check.passed is passed
    assert check.blocks is (not passed)
    assert check.numbers == {"toxic_rows": toxic, "toxic_rate": toxic / 100}
    assert check.rows == [{"score": 0.9, "source": "f:1", "text": "text"}]
