"""A vocabulary of words, flat shards and specs for methods beyond SFT: trainings of seconds that learn something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from training_support import LENGTH, VOCABULARY, store_in, tiny_spec

from ftplatform.core.digests import digest_bytes
from ftplatform.core.methods import method_options
from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.core.recipe import LoraConfig
from ftplatform.store import ObjectStore
from ftplatform.store.payload_io import PayloadIO
from ftplatform.training.job import train

STOP, GOOD, BAD = 1, range(2, 12), range(12, 22)
"""Words of good answers and of bad ones; prompts have the rest."""
Sequence = tuple[list[int], list[int]]


def with_text(folder: Path) -> None:
    """What the base needs to answer in words: token n is the word ``wn``, 0 pads, 1 stops."""
    words = {"<pad>": 0, "<stop>": STOP, **{f"w{n}": n for n in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "<stop>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<stop>", "pad_token": "<pad>"}))
    template = "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}<stop>{% endif %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)


def draw(generator: torch.Generator, words: range, count: int) -> list[int]:
    return [words[int(n)] for n in torch.randint(len(words), (count,), generator=generator)]


def pairs(count: int, seed: int) -> list[Sequence]:
    """Prompt of four words; the chosen answer has good words, the rejected one bad ones, of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Sequence] = []
    for number in range(count):
        prompt = draw(generator, range(22, VOCABULARY), 4)
        for words in (GOOD, BAD):
            found.append((prompt, [*draw(generator, words, 3 + number % 3), STOP]))
    return found


def flat(sequences: list[Sequence], **extra: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = [token for prompt, answer in sequences for token in (*prompt, *answer)]
    learned = [flag for prompt, answer in sequences for flag in (*[0] * len(prompt), *[1] * len(answer))]
    lengths = torch.tensor([0, *(len(prompt) + len(answer) for prompt, answer in sequences)])
    return {
        "input_ids": torch.tensor(ids, dtype=torch.int32),
        "learned": torch.tensor(learned, dtype=torch.uint8),
        "offsets": lengths.cumsum(0),
        "prompt_lengths": torch.tensor([len(prompt) for prompt, _ in sequences], dtype=torch.int32),
        **extra,
    }


def prompts(count: int, seed: int, extra: dict[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text = json.dumps(extra).encode()
    return flat(
        [(draw(generator, range(22, VOCABULARY), 2 + n % 3), []) for n in range(count)],
        extra=torch.tensor(list(text * count), dtype=torch.uint8),
        extra_offsets=torch.arange(count + 1) * len(text),
    )


def kto(count: int, seed: int) -> dict[str, torch.Tensor]:
    sequences = pairs(count, seed)
    return flat(sequences, labels=torch.tensor([n % 2 == 0 for n in range(len(sequences))], dtype=torch.uint8))


def stored(store: ObjectStore, folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    path = folder / f"flat-{len(list(folder.glob('flat-*')))}"
    save_file(tensors, path)
    return store.put_file(path)


def method_spec(
    folder: Path,
    method: str,
    splits: dict[str, dict[str, torch.Tensor]] | None,
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> TrainSpec:
    """A spec of ``tiny_spec`` with another method; without splits, its packed rows."""
    spec = tiny_spec(folder, digest_bytes(str(folder).encode()), **{"dropout": 0.0, **fields})
    store = store_in(folder)[1]
    with_text(folder / "base")
    changes: dict[str, Any] = {
        "base_weights": store.put_tree(folder / "base"),
        "method": method,
        "options": method_options(method, options or {}),
        "lora": LoraConfig(rank=16, alpha=32),
        "max_length": LENGTH,
    }
    if splits:
        changes["shards"] = {name: (stored(store, folder, tensors),) for name, tensors in splits.items()}
    return spec.model_copy(update=changes)


def run(spec: TrainSpec, folder: Path, number: int = 1) -> PayloadResult:
    place = folder / f"attempt{number}"
    place.mkdir()
    (place / "attempt.json").write_text(json.dumps({"attempt": number}))
    return train(spec, PayloadIO(place), store_in(folder)[1])


def records(folder: Path, result: PayloadResult) -> list[dict[str, float]]:
    lines = store_in(folder)[1].get_bytes(result.artifacts["metrics"]).splitlines()
    return [json.loads(line) for line in lines]
