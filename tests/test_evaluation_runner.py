"""The scoring payload on a tiny model: true to a direct computation, one load per base, the right adapter, the
model's template."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("lm_eval", reason="the train extra is not installed")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from ftplatform.core.errors import DataRefused, PayloadFailed  # noqa: E402
from ftplatform.core.payload import EvalSpec, ModelSpec, PayloadResult, StoreAddress  # noqa: E402
from ftplatform.core.rows import Message, Row  # noqa: E402
from ftplatform.evaluation import runner, runner_choices, runner_model  # noqa: E402
from ftplatform.evaluation.items import Item, dump_items, parse_items  # noqa: E402
from ftplatform.evaluation.score_cache import missing_scores, record_scores, score_requests  # noqa: E402
from ftplatform.evaluation.suite_files import StoredSuite, publish_heldout, publish_items  # noqa: E402
from ftplatform.store import ObjectStore, open_store  # noqa: E402
from ftplatform.store.payload_io import PayloadIO  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = ["red", "green", "blue", "where", "is", "the", "parcel", "of", "my", "order", "refund", "please"]


def make_base(folder: Path, seed: int, template: str | None = TEMPLATE) -> Path:
    """A byte-level Llama of 60 thousand random parameters; random is enough to tell models apart."""
    names = ["<|pad|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = template
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(names), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.4, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(folder)
    return folder


def choice_items(n: int) -> list[Item]:
    turns = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes"},
    ]
    return [
        Item.model_validate(
            {
                "id": f"item-{i}",
                "messages": [
                    *turns[: i % 4],
                    {"role": "user", "content": " ".join(WORDS[(i * k) % 12] for k in range(1 + i % 7))},
                ],
                # Of equal length, or every random model would prefer the shortest.
                "choices": [(WORDS[(i + k) % 12] * 5)[:5] for k in range(3 + i % 2)],
                "answer": i % 3,
                "tags": {"turns": str(1 + i % 4)},
            }
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    address = StoreAddress(url=(root / "store").as_uri())
    store = open_store(address)
    folders = {"base": make_base(root / "base", 1), "full": make_base(root / "full", 29)}
    folders |= {name: make_adapter(folders["base"], root / name, seed) for name, seed in (("one", 3), ("two", 4))}
    digests = {name: store.put_tree(folder) for name, folder in folders.items()}
    return SimpleNamespace(root=root, address=address, store=store, folders=folders, digests=digests)


def model(place, name: str) -> ModelSpec:
    kind = {"base": "base", "full": "full"}.get(name, "lora")
    weights = None if kind == "base" else place.digests[name]
    return ModelSpec(name=name, kind=kind, base_weights=place.digests["base"], weights=weights)


def choices(store: ObjectStore, n: int = 60) -> StoredSuite:
    return publish_items(store, "choices", choice_items(n), 32)


def heldout(store: ObjectStore) -> StoredSuite:
    rows = [
        Row((Message("user", f"{word} {i}?"), Message("assistant", "x")), f"t:{i}") for i, word in enumerate(WORDS * 2)
    ]
    return publish_heldout(store, rows, 8)


def score(place, tmp_path: Path, names: list[str], suites: list[StoredSuite]) -> tuple[PayloadResult, dict]:
    requests = score_requests([model(place, name) for name in names], [suite.spec for suite in suites])
    spec = EvalSpec(key="k", store=place.address, requests=requests, threads=1)
    result = runner.score_all(spec, PayloadIO(tmp_path), place.store)
    return result, {(r.model.name, r.suite.name): place.store.get_json(result.artifacts[r.cache]) for r in requests}


def direct_choice(place, name: str, item: Item) -> int:
    """Loaded on its own, one choice at a time, log-probabilities summed by hand over ids the tokenizer's template
    gave."""
    folder = place.folders["full" if name == "full" else "base"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder)
    if name in ("one", "two"):
        network = PeftModel.from_pretrained(network, place.folders[name])
    prompt = tokenizer.apply_chat_template([t.model_dump() for t in item.messages], add_generation_prompt=True)[
        "input_ids"
    ]
    totals = []
    for choice in item.choices or ():
        answer = tokenizer.encode(choice, add_special_tokens=False)
        with torch.no_grad():
            logits = network(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        totals.append(sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)))
    return totals.index(max(totals))


def test_scores_equal_a_direct_computation_with_a_separate_load_of_every_model(place, tmp_path):
    suite = choices(place.store, 24)
    result, scored = score(place, tmp_path, ["base", "one", "two", "full"], [suite])
    assert result.outcome == "done"
    assert result.numbers["loads"] == 2
    for name in ("base", "one", "two", "full"):
        found = scored[name, "choices"]
        expected = {item.id: int(direct_choice(place, name, item) == item.answer) for item in choice_items(24)}
        assert {item["id"]: item["score"] for item in found["items"]} == expected
        assert found["score"] == sum(expected.values()) / 24
        assert found["n"] == 24
    assert len({str(scored[name, "choices"]["items"]) for name in ("base", "one", "two", "full")}) == 4


def test_the_base_scores_the_same_before_between_and_after_adapters(place, tmp_path):
    suite = choices(place.store)
    _, alone = score(place, tmp_path, ["base"], [suite])
    for order in (["one", "base", "two"], ["two", "one", "base"]):
        _, found = score(place, tmp_path, order, [suite])
        assert found["base", "choices"] == alone["base", "choices"]
        assert found["one", "choices"]["items"] != found["two", "choices"]["items"]


def test_generation_is_greedy_stops_at_the_end_of_the_turn_and_equals_a_direct_call(place, tmp_path):
    suite = heldout(place.store)
    _, scored = score(place, tmp_path, ["full"], [suite])
    tokenizer = AutoTokenizer.from_pretrained(place.folders["full"])
    network = AutoModelForCausalLM.from_pretrained(place.folders["full"])
    items = parse_items(place.store.get_bytes(suite.spec.items), "exact_match", "heldout")
    lengths = set()
    for item, found in zip(items, scored["full", "heldout"]["items"], strict=True):
        ids = tokenizer.apply_chat_template([t.model_dump() for t in item.messages], add_generation_prompt=True)[
            "input_ids"
        ]
        written: list[int] = []
        while len(written) < 8 and (not written or written[-1] != tokenizer.eos_token_id):
            with torch.no_grad():
                written.append(int(network(torch.tensor([ids + written])).logits[0, -1].argmax()))
        lengths.add(len(written))
        assert found == {
            "id": item.id,
            "score": 0,
            "output": tokenizer.decode(written, skip_special_tokens=True).strip(),
        }
    assert len(lengths) > 1, "no answer ended early, so this proves nothing about stopping: choose another seed"


def test_the_right_answer_scores_one_and_a_longer_one_zero(place, tmp_path):
    plain = heldout(place.store)
    _, scored = score(place, tmp_path, ["base"], [plain])
    items = parse_items(place.store.get_bytes(plain.spec.items), "exact_match", "heldout")
    outputs = [item["output"] for item in scored["base", "heldout"]["items"]]
    answers = [f" {output}\n" if i % 2 else output + "x" for i, output in enumerate(outputs)]
    changed = [item.model_copy(update={"reference": answer}) for item, answer in zip(items, answers, strict=True)]
    _, again = score(place, tmp_path, ["base"], [publish_items(place.store, "heldout", changed, 8)])
    assert [item["score"] for item in again["base", "heldout"]["items"]] == [i % 2 for i in range(len(items))]


def test_prompts_are_the_ids_of_the_models_own_template(place, tmp_path, monkeypatch):
    seen: list[list[int]] = []
    original = runner_choices._batch

    def spy(model, prompts, rows, continuations, start):
        seen.extend(prompts)
        return original(model, prompts, rows, continuations, start)

    monkeypatch.setattr(runner_choices, "_batch", spy)
    score(place, tmp_path, ["base"], [choices(place.store, 8)])
    tokenizer = AutoTokenizer.from_pretrained(place.folders["base"])
    for item in choice_items(8):
        prompt = tokenizer.apply_chat_template([t.model_dump() for t in item.messages], add_generation_prompt=True)[
            "input_ids"
        ]
        assert prompt in seen


def test_sharing_a_prompt_gives_the_log_probabilities_lm_eval_gives_without_sharing(place):
    loaded = runner_model.LoadedBase(place.folders["base"], {"one": place.folders["one"]}, lambda: None)
    with loaded.using("one") as lm:
        texts = [("<|im_start|>user\n" + w * n, "yes" * k) for n, w in enumerate(WORDS, 1) for k in (1, 2, 5)]
        requests = [(text, lm.tok_encode(text[0]), lm.tok_encode(text[1])) for text in texts]
        lm.fit_batch(64)
        lm.batch_size_per_gpu = 5
        shared = lm._loglikelihood_tokens(requests)
        plain = super(runner_model.ChatLM, lm)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [value for value, _ in shared] == pytest.approx([value for value, _ in plain], rel=1e-4)
    assert [greedy for _, greedy in shared] == [greedy for _, greedy in plain]


def test_an_item_too_long_for_the_model_scores_zero_and_is_counted(place, tmp_path):
    items = choice_items(6)
    long = items[2].model_copy(
        update={"messages": (items[2].messages[-1].model_copy(update={"content": "red " * 80}),)}
    )
    _, scored = score(
        place, tmp_path, ["base"], [publish_items(place.store, "choices", [*items[:2], long, *items[3:]], 32)]
    )
    found = scored["base", "choices"]
    assert found["too_long"] == 1
    assert found["n"] == 6
    assert found["items"][2] == {"id": "item-2", "score": 0}


def test_the_batch_size_does_not_change_a_score(place, tmp_path, monkeypatch):
    suites = [choices(place.store), heldout(place.store)]
    _, wide = score(place, tmp_path, ["two"], suites)
    monkeypatch.setattr(runner_model, "LARGEST_BATCH", 1)
    _, narrow = score(place, tmp_path, ["two"], suites)
    assert wide == narrow


def test_an_adapter_of_another_base_is_refused_instead_of_scoring_the_bare_base(place, tmp_path):
    folder = tmp_path / "renamed"
    folder.mkdir()
    for file in place.folders["one"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name.replace("layers.1.", "layers.7."): t for name, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(DataRefused, match="does not fit its base"):
        runner_model.LoadedBase(place.folders["base"], {"x": folder}, lambda: None)


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    with pytest.raises(DataRefused, match="no chat template"):
        runner_model.LoadedBase(make_base(tmp_path / "base", 1, template=None), {}, lambda: None)


def test_weights_that_are_not_finite_fail_instead_of_scoring(place, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in place.folders["base"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = runner_model.LoadedBase(folder, {}, lambda: None)
    with loaded.using(None) as lm, pytest.raises(PayloadFailed, match="not finite"):
        runner.score_suite(lm, choices(place.store).spec, choice_items(4))


def test_the_payload_runs_as_a_program_and_its_scores_become_known(place, tmp_path):
    requests = score_requests([model(place, "base"), model(place, "one")], [choices(place.store, 12).spec])
    spec = missing_scores(place.store, requests, address=place.address, threads=1)
    assert spec is not None
    assert len(spec.requests) == 2
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "ftplatform.evaluation", str(tmp_path / "spec.json")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = PayloadResult.model_validate_json((tmp_path / "result.json").read_text())
    assert result.outcome == "done"
    assert result.numbers["loads"] == 1
    record_scores(place.store, spec, result)
    assert missing_scores(place.store, requests, address=place.address, threads=1) is None
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == lines[-1]["of"] == 2
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("models-")]


def test_items_survive_storing(place):
    items = choice_items(5)
    assert parse_items(dump_items(items), "multiple_choice", "here") == items
