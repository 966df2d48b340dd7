"""What happens to findings: every action, every place of a row, and the proof that nothing is left."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import pytest
from samples_pii.planted import samples

from ftplatform.core.dataset_config import PiiConfig
from ftplatform.core.errors import InvalidConfig
from ftplatform.core.rows import Message, Row, ToolCall
from ftplatform.data.pii.json_text import rewrite_json
from ftplatform.data.pii.rules import RULES
from ftplatform.data.pii.scrubber import DEFAULTS, ENTITIES, Scrubber, open_scrubber, wanted_entities

SECRET = b"tenant key"
CARD = "4111 1111 1111 1111"


def row(text: str, answer: str = "ok") -> Row:
    return Row((Message("user", text, False), Message("assistant", answer)), "a.jsonl:1")


def scrubbed(text: str, scrubber: Scrubber) -> str:
    done = scrubber.scrub([row(text)]).rows[0]
    assert done is not None
    return done.messages[0].content


@pytest.fixture(scope="module")
def replacing() -> Scrubber:
    return open_scrubber(PiiConfig(), SECRET)


@pytest.fixture(scope="module")
def inventing() -> Scrubber:
    return open_scrubber(PiiConfig(policy="pseudonym"), SECRET)


def test_scrub_counts_masks_and_keeps_clean_rows_as_they_are(replacing: Scrubber) -> None:
    rows = [row("mail jo@example.com and al@example.org", "call +1 212 555 0147"), row("clean")]
    done = replacing.scrub(rows)
    first = done.rows[0]
    assert first is not None
    assert done.rows[1] is rows[1]
    assert [m.content for m in first.messages] == [
        "mail <EMAIL_ADDRESS> and <EMAIL_ADDRESS>",
        "call <PHONE_NUMBER>",
    ]
    assert [m.train for m in first.messages] == [False, True]
    assert done.counts == {"EMAIL_ADDRESS": 2, "PHONE_NUMBER": 1}
    assert all("example" not in e["found"] and "212" not in e["found"] for e in done.examples)
    assert len(replacing.find(rows)) == 3
    assert replacing.find([first]) == []


@pytest.mark.parametrize("policy", ["replace", "mask", "pseudonym"])
def test_scrubbing_leaves_nothing_and_twice_is_once(policy: str) -> None:
    scrubber = open_scrubber(PiiConfig.model_validate({"policy": policy}), SECRET)
    rng = random.Random(3)
    texts = [text for _, _, text, _ in samples()]
    words = [word for text in texts for word in text.split()]
    texts += [rng.choice(["", " ", ","]).join(rng.choices(words, k=rng.randint(2, 8))) for _ in range(300)]
    once = [r for r in scrubber.scrub([row(text) for text in texts]).rows if r is not None]
    assert len(once) == len(texts)
    assert scrubber.find(once) == []
    assert scrubber.find_secrets(once) == []
    assert all(a is b for a, b in zip(scrubber.scrub(once).rows, once, strict=True))


def test_each_entity_has_its_own_action() -> None:
    config = PiiConfig(
        policy="mask",
        entities={
            "EMAIL_ADDRESS": "pseudonym",
            "CREDIT_CARD": "drop_row",
            "PHONE_NUMBER": "allow",
            "UK_NHS": "replace",
        },
    )
    scrubber = open_scrubber(config, SECRET)
    text = scrubbed("jo@example.com 10.0.0.17 +1 212 555 0147 nhs 943 476 5919", scrubber)
    mail, address, *phone, _, nhs = text.split()
    assert mail.startswith("user-")
    assert mail.endswith("@example.invalid")
    assert (address, " ".join(phone), nhs) == ("1*******7", "+1 212 555 0147", "<UK_NHS>")
    done = scrubber.scrub([row("clean"), row(f"card {CARD}")])
    assert [r is None for r in done.rows] == [False, True]
    assert done.counts == {"CREDIT_CARD": 1}


def test_a_pseudonym_is_the_same_for_the_same_value_and_key_only(inventing: Scrubber) -> None:
    one = scrubbed("jo@example.com", inventing)
    assert one == scrubbed("JO@Example.com", inventing) != scrubbed("al@example.com", inventing)
    assert scrubbed("+1 212 555 0147", inventing) == scrubbed("(212) 555-0147", inventing)
    other = open_scrubber(PiiConfig(policy="pseudonym"), b"another key")
    assert scrubbed("jo@example.com", other) != one
    with pytest.raises(InvalidConfig, match="key"):
        open_scrubber(PiiConfig(), b"")


def test_a_pseudonym_keeps_the_form_and_is_never_valid(inventing: Scrubber) -> None:
    digits = scrubbed(CARD, inventing).replace(" ", "")
    total = sum(sum(divmod(int(d) * (1 + i % 2), 10)) for i, d in enumerate(reversed(digits)))
    assert len(digits) == 16
    assert total % 10 != 0
    assert scrubbed("ssn 536-90-4399", inventing).startswith("ssn 000-")
    assert scrubbed("ip 10.1.2.3", inventing).endswith(".example.invalid")
    for entity, value, text, _ in samples():
        if value and RULES[entity].on:
            assert value not in scrubbed(text, inventing)


def test_every_place_of_a_row_is_scrubbed(replacing: Scrubber) -> None:
    mail = "jo@example.com"
    call = ToolCall("1", "send", json.dumps({"to": mail, "card": 4111111111111111, "n": [1, {mail: None}]}))
    before = Row(
        (
            Message("system", mail, False),
            Message("user", mail, False, name="jo@example.com"),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", f'{{"mail": "{mail}"}}', False, tool_call_id="1"),
        ),
        "a.jsonl:1",
        tags={"customer": mail, "topic": "cards"},
        kind="preference",
        chosen=(Message("assistant", mail),),
        rejected=(Message("assistant", mail),),
        text=mail,
        extra={"answer": mail, "phone": 12125550147, "nested": [mail, 3.5, True, None]},
    )
    after = replacing.scrub([before]).rows[0]
    assert after is not None
    assert "jo@" not in json.dumps(after.to_json())
    assert "4111" not in json.dumps(after.to_json())
    assert json.loads(after.messages[2].tool_calls[0].arguments) == {
        "to": "<EMAIL_ADDRESS>",
        "card": "<CREDIT_CARD>",
        "n": [1, {"<EMAIL_ADDRESS>": None}],
    }
    assert json.loads(after.messages[3].content) == {"mail": "<EMAIL_ADDRESS>"}
    assert after.extra["nested"] == ["<EMAIL_ADDRESS>", 3.5, True, None]
    # A tag tells groups apart, a name tells speakers apart: a placeholder would make them all one.
    assert after.tags["topic"] == "cards"
    assert after.tags["customer"].endswith("@example.invalid")
    assert after.messages[1].name == after.tags["customer"]
    assert replacing.find([after]) == []
    assert len(replacing.find([before])) == 14


def test_json_keeps_its_layout_and_hides_nothing_in_escapes(replacing: Scrubber) -> None:
    arguments = '{\n  "to" : "jo\\u0040example.com",\n  "password": "hunter22x",  "n": 1.50, "say": "a \\"b\\""}'
    message = Message("assistant", "", tool_calls=(ToolCall("1", "f", arguments),))
    done = replacing.scrub([Row((Message("user", "hi", False), message), "a:1")]).rows[0]
    assert done is not None
    assert done.messages[1].tool_calls[0].arguments == (
        '{\n  "to" : "<EMAIL_ADDRESS>",\n  "password": "<PASSWORD>",  "n": 1.50, "say": "a \\"b\\""}'
    )
    assert rewrite_json(arguments, lambda value, key: value) is arguments


def test_a_mask_shows_nothing_of_a_secret() -> None:
    masking = open_scrubber(PiiConfig(policy="mask"), SECRET)
    assert scrubbed("password: hunter22x and jo@example.com", masking) == "password: ********* and j************m"


def test_allowed_entities_stay_but_a_secret_is_still_reported() -> None:
    scrubber = open_scrubber(PiiConfig(allow=("PHONE_NUMBER", "CREDIT_CARD")), SECRET)
    rows = [row(f"jo@example.com +1 212 555 0147 {CARD}")]
    done = scrubber.scrub(rows)
    assert done.counts == {"EMAIL_ADDRESS": 1}
    left = [r for r in done.rows if r is not None]
    assert scrubber.find(left) == []
    assert [f["entity"] for f in scrubber.find_secrets(left)] == ["CREDIT_CARD"]
    off = open_scrubber(PiiConfig(policy="off"), SECRET)
    assert off.scrub(rows).rows[0] is rows[0]
    assert (off.find(rows), off.find_secrets(rows)) == ([], [])


def test_settings_that_name_no_entity_are_refused_with_the_list() -> None:
    for config in (PiiConfig(allow=("PHONE",)), PiiConfig(entities={"PHONE": "mask"})):
        with pytest.raises(InvalidConfig, match=r"PHONE.*accepted are.*PHONE_NUMBER"):
            wanted_entities(config)
    with pytest.raises(InvalidConfig, match="ner_model"):
        wanted_entities(PiiConfig(entities={"PERSON": "replace"}))
    assert wanted_entities(PiiConfig()) == DEFAULTS
    assert wanted_entities(PiiConfig(entities={"UK_NHS": "mask"}, allow=("IBAN_CODE",))) == tuple(
        e for e in ENTITIES if e in {*DEFAULTS, "UK_NHS"} - {"IBAN_CODE"}
    )


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"config\.json.*token classifier"):
        open_scrubber(PiiConfig(ner_model=str(tmp_path / "nowhere")), SECRET)
    (tmp_path / "config.json").write_text('{"id2label": {"0": "POSITIVE"}}')
    with pytest.raises(InvalidConfig, match="POSITIVE"):
        open_scrubber(PiiConfig(ner_model=str(tmp_path)), SECRET)


def name_model(folder: Path) -> None:
    """A token classifier that calls the word ``priya`` a person, ``paris`` a place, and everything else nothing."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "priya", "paris"]
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=4,
            hidden_size=8,
            num_hidden_layers=0,
            num_attention_heads=1,
            intermediate_size=8,
            max_position_embeddings=64,
            id2label={0: "O", 1: "B-PER", 2: "B-LOC"},
            label2id={"O": 0, "B-PER": 1, "B-LOC": 2},
        )
    ).eval()
    with torch.no_grad():
        for weights in (model.bert.embeddings.position_embeddings, model.bert.embeddings.token_type_embeddings):
            weights.weight.zero_()
        seen = torch.eye(4, 8)
        model.bert.embeddings.word_embeddings.weight.copy_(seen)
        normed = model.bert.embeddings.LayerNorm(seen)
        aim = torch.tensor([0, 0, 1, 2])
        model.classifier.weight.copy_(torch.stack([10 * normed[aim == label].mean(0) for label in range(3)]))
        model.classifier.bias.zero_()
    model.save_pretrained(folder)


def test_a_model_by_path_finds_names_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_model(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model = str(tmp_path)
    text = "is priya in paris with jo@example.com"
    replacing = open_scrubber(PiiConfig(ner_model=model), SECRET)
    assert scrubbed(text, replacing) == "is <PERSON> in <LOCATION> with <EMAIL_ADDRESS>"
    inventing = open_scrubber(PiiConfig(policy="pseudonym", ner_model=model, allow=("LOCATION",)), SECRET)
    again = scrubbed(text, inventing).split()
    assert again[1].startswith("Person-")
    assert again[3] == "paris"
    assert inventing.find([row(" ".join(again))]) == []
    long = " ".join(["word"] * 200 + ["priya"])
    assert scrubbed(long, replacing).endswith("word <PERSON>")


def test_the_names_of_tags_are_searched_too(replacing: Scrubber) -> None:
    one = Row((Message("user", "hello", False), Message("assistant", "ok")), "a.jsonl:1", {"jo@example.com": "gold"})
    assert replacing.find([one])
    done = replacing.scrub([one]).rows[0]
    assert done is not None
    (name,) = done.tags
    assert name.endswith("@example.invalid")
    assert done.tags[name] == "gold"
    assert not replacing.find([done])
