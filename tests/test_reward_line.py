"""Reward models: judged on held-out pairs, registered beside the model that answers, never served, named by policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from platform_support import Bench
from serving_support import write_base
from transformers import AutoModelForSequenceClassification

from ftplatform import assets
from ftplatform.cli.bases import register
from ftplatform.core.errors import DataRefused, InvalidConfig
from ftplatform.core.manifests import EvalReport, SuiteScore
from ftplatform.core.payload import ModelSpec, SuiteSpec
from ftplatform.core.recipe import parse_recipe
from ftplatform.core.rows import Message, Row
from ftplatform.data.rendering.chat_format import load_chat_format
from ftplatform.data.tokens.tokenize import RowTokenizer
from ftplatform.evaluation.chance import above_chance, lower_bound
from ftplatform.evaluation.heldout_pairs import heldout_pairs, pair_item
from ftplatform.evaluation.runner_reward import LoadedRewards, score_pairs
from ftplatform.evaluation.score_cache import score_request
from ftplatform.partitions import bases


def pair(number: int) -> Row:
    ask = (Message("user", f"Ticket {number}: where is garden {number * 7919}?"),)
    good, bad = Message("assistant", f"Take lane {number}."), Message("assistant", f"No idea {number}!")
    return Row(messages=ask, source=f"r:{number}", kind="preference", chosen=(good,), rejected=(bad,))


def reward_adapter(base: Path, folder: Path) -> Path:
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"))
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.5)
    tuned.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_pair_is_right_where_the_better_answer_scores_higher(tmp_path: Path, kind: str) -> None:
    base = write_base(tmp_path / "base")
    if kind == "lora":
        weights = reward_adapter(base, tmp_path / "reward")
        from ftplatform.training.methods.reward import load_reward_model

        model = load_reward_model(base, weights, "lora")
    else:
        torch.manual_seed(4)
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).eval()
        model.config.pad_token_id = 0
        weights = tmp_path / "full"
        model.save_pretrained(weights)
    spec = ModelSpec(name="candidate", kind=kind, base_weights="b", weights="w", scores=True)  # type: ignore[arg-type]
    loaded = LoadedRewards(spec, base, weights)
    rows = [pair(number) for number in range(12)]
    items = [pair_item(row) for row in rows]
    found = score_pairs(loaded, SuiteSpec(name="heldout", kind="multiple_choice", items="x"), items, lambda: None)

    form = load_chat_format(base)
    tokens = RowTokenizer(form.tokenizer, form.template)
    expected = []
    for row in rows:
        block = tokens([row])
        scores = []
        for ids in (block.ids[: block.lengths[0]], block.ids[block.lengths[0] :]):
            with torch.no_grad():
                hidden = model.base_model.model.model if kind == "lora" else model.model
                state = hidden(torch.tensor(ids)[None].long()).last_hidden_state[0, -1]
                head = model.base_model.model.score if kind == "lora" else model.score
                scores.append(float(head(state)[0]))
        expected.append(int(scores[0] > scores[1]))
    assert [item["score"] for item in found["items"]] == expected
    assert found["score"] == pytest.approx(sum(expected) / 12)
    assert 0 < sum(expected) < 12, "random weights get some right and some wrong"


def test_the_better_answer_stands_first_or_second_by_the_rows_hash() -> None:
    items = [pair_item(pair(number)) for number in range(40)]
    assert {item.answer for item in items} == {0, 1}
    assert all(item.choices and item.choices[item.answer or 0].startswith("Take lane") for item in items)
    tools = Row(messages=pair(1).messages, source="x", kind="preference", chosen=(*pair(1).chosen, *pair(1).chosen),
                rejected=pair(1).rejected)  # fmt: skip
    assert heldout_pairs([pair(1), tools]) == [pair(1)]


def test_a_score_of_a_reward_model_is_not_that_of_a_model_that_answers() -> None:
    suite = SuiteSpec(name="heldout", kind="multiple_choice", items="x")
    plain = ModelSpec(name="m", kind="lora", base_weights="b", weights="w")
    assert score_request(plain, suite).cache != score_request(plain.model_copy(update={"scores": True}), suite).cache


def test_better_than_a_coin_has_to_be_shown() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857: 81 of 263 has the two-sided 90 % Wilson interval 0.2630 to 0.3567.
    assert lower_bound(81 / 263, 263) == pytest.approx(0.2633, abs=5e-4)

    def report(share: float, n: int) -> EvalReport:
        score = SuiteScore(suite="heldout", n=n, score=share, items="x")
        return EvalReport(adapter="a", dataset="acme/taste", comparisons=(), scores={"candidate": {"heldout": score}},
                          slices={}, verdict="promote", reasons=("better than the base",))  # fmt: skip

    assert above_chance(report(0.9, 30)).verdict == "promote"
    unsure = above_chance(report(0.6, 30))
    assert unsure.verdict == "quarantine"
    assert "not shown to be above the 50%" in unsure.reasons[0]


def test_a_reward_model_is_named_by_its_dataset_or_its_digest() -> None:
    def recipe(**grader: Any) -> object:
        rewards = [{"type": "reward_model", **grader}]
        training = {"learning_rate": 1e-4}
        return parse_recipe({"name": "a", "version": 1, "base": "b", "method": "rloo", "training": training,
                             "rloo": {"rewards": rewards}})  # fmt: skip

    assert recipe(dataset="acme/taste")
    assert recipe(weights="0" * 64)
    with pytest.raises(InvalidConfig, match="named by"):
        recipe()


def pairs_file(count: int) -> str:
    def line(number: int) -> str:
        row = pair(number)
        return json.dumps({"prompt": row.messages[0].content, "chosen": row.chosen[0].content,
                           "rejected": row.rejected[0].content})  # fmt: skip

    return "".join(line(number) + "\n" for number in range(count))


@pytest.mark.slow
def test_from_preferences_to_a_reward_model_to_a_policy(tmp_path: Path) -> None:
    """The RLHF path: a reward line is promoted, its model is not served, and a policy of the same tenant learns from it."""
    bench = Bench()
    key = register(
        bench.parts, "tiny", {"kind": "folder", "tree": bench.parts.store.put_tree(write_base(tmp_path / "b"))}
    )
    bench.instance.add_dynamic_partitions(bases.name or "", [str(key)])
    assert bench.run([assets.base_model], str(key)).success
    training = {"learning_rate": 0.01, "max_steps": 40, "batch_size": 8, "max_length": 128}
    common = {"version": 1, "base": "tiny", "lora": {"rank": 8, "alpha": 32}}
    reward = parse_recipe({**common, "name": "judge", "method": "reward", "training": training})
    bench.parts.catalog.recipes.add(reward)
    assert bench.data_run("acme/taste", {"rows.jsonl": pairs_file(150)}).success
    line = "acme/taste|judge@1"
    result = bench.run(assets.LINE, line)
    assert result.success, bench.failure(result)
    report = result.output_for_node("eval_report")
    assert report.verdict == "promote", report.reasons
    assert report.scores["candidate"]["heldout"].score > 0.9
    entry, deployed = result.output_for_node("registry_entry"), result.output_for_node("deployment")
    assert (entry.model, entry.champion, entry.answers) == ("acme.taste.reward", True, False)
    assert deployed.action == "none"
    assert bench.check("deployment", "fingerprint", line) == "SUCCEEDED"
    assert bench.jobs.all()[0]["state"] == "promoted"
    assert bench.parts.catalog.champions.get("acme.taste") is None, "what is served is not touched"

    again = bench.run(assets.LINE, line)
    assert again.success, bench.failure(again)
    assert again.output_for_node("training_plan").champion.version == entry.version

    policy = {"rewards": [{"type": "reward_model", "dataset": "acme/taste"}], "group_size": 2, "max_new_tokens": 8}
    steps = {"learning_rate": 0.001, "max_steps": 2, "batch_size": 2, "max_length": 128}
    bench.parts.catalog.recipes.add(
        parse_recipe({**common, "name": "policy", "method": "rloo", "rloo": policy, "training": steps})
    )
    prompts = "".join(json.dumps({"prompt": pair(number).messages[0].content}) + "\n" for number in range(40))
    assert bench.data_run("acme/asks", {"rows.jsonl": prompts}).success
    learned = bench.run([assets.training_plan, assets.tokenized_shards, assets.adapter], "acme/asks|policy@1")
    assert learned.success, bench.failure(learned)
    (grader,) = learned.output_for_node("training_plan").method_options["rewards"]
    assert grader["weights"] == result.output_for_node("adapter").weights

    assert bench.data_run("globex/asks", {"rows.jsonl": prompts}).success
    stolen = bench.run([assets.training_plan], "globex/asks|policy@1")
    assert not stolen.success
    assert "globex has none there" in bench.failure(stolen)


def test_pairs_without_any_held_out_are_refused() -> None:
    from ftplatform.evaluation.heldout_pairs import publish_pairs
    from ftplatform.store import ObjectStore

    with pytest.raises(DataRefused, match="no held-out pairs"):
        publish_pairs(ObjectStore.__new__(ObjectStore), [])
