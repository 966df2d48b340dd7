"""A tiny random Llama, adapters that disagree strongly, an embedded server on a loopback port, and a reference
computation.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import uvicorn
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftplatform.serving.desired import ServedModel
from ftplatform.serving.embedded import Deps, make_app
from ftplatform.serving.embedded_pool import Pool
from ftplatform.serving.embedded_scheduler import Scheduler
from ftplatform.serving.reconciler import Reconciler
from ftplatform.store.base import ObjectStore
from ftplatform.store.local import LocalBlobs

torch.set_num_threads(1)
CONTEXT = 256
CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] + '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


def write_base(folder: Path, seed: int = 0) -> Path:
    """A byte-level tokenizer without merges (one token per byte) and a 2-layer Llama with large random weights."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHATML
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_adapter(base: Path, folder: Path, seed: int, **changes: object) -> Path:
    """A LoRA folder whose random weights move every answer by nats."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "o_proj", "up_proj"], **changes}
    tuned = get_peft_model(model, LoraConfig(init_lora_weights=False, **config))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    tuned.save_pretrained(folder)
    return folder


@dataclass
class Bench:
    """The files and the store of one test."""

    root: Path
    store: ObjectStore
    base_folder: Path
    base: str
    adapters: dict[str, str] = field(default_factory=dict)

    def adapter(self, name: str, seed: int, **changes: object) -> str:
        folder = write_adapter(self.base_folder, self.root / name, seed, **changes)
        self.adapters[name] = self.store.put_tree(folder)
        return self.adapters[name]

    def served(self, name: str, **changes: object) -> ServedModel:
        values = {
            "name": name,
            "kind": "lora",
            "weights": self.adapters.get(name, self.base),
            "base_weights": self.base,
            **changes,
        }
        return ServedModel.model_validate(values)

    def reference(self, name: str | None, prompt: list[int], tokens: list[int]) -> list[float]:
        """Log-probabilities of ``tokens`` after ``prompt`` from a model of its own, with the adapter merged into the
        weights.
        """
        model = _merged(self.base_folder, None if name is None else self.root / name)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        return torch.log_softmax(logits.double(), -1)[range(len(tokens)), tokens].tolist()

    def fingerprint(self, name: str | None, length: int = 6) -> str:
        """Stored fingerprint: the greedy continuation by the reference model."""
        model, ids = _merged(self.base_folder, None if name is None else self.root / name), [10, 20, 30]
        with torch.no_grad():
            for _ in range(length):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        prompt, tokens = ids[:3], ids[3:]
        value = {"prompt_ids": prompt, "token_ids": tokens, "logprobs": self.reference(name, prompt, tokens)}
        return self.store.put_json(value)


@cache
def _merged(base: Path, adapter: Path | None) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    return model if adapter is None else PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()


def make_bench(root: Path) -> Bench:
    store = ObjectStore(LocalBlobs(root / "store"))
    folder = write_base(root / "base")
    return Bench(root, store, folder, store.put_tree(folder))


@dataclass
class Running:
    url: str
    pool: Pool
    scheduler: Scheduler


@contextmanager
def serve(bench: Bench, scheduler: Scheduler | None = None, source: object = None) -> Iterator[Running]:
    """A real uvicorn server on a free loopback port, in a thread."""
    scheduler = scheduler or Scheduler()
    pool = Pool(bench.store, scheduler, bench.root / "trees")
    reconciler = Reconciler(source, pool, interval=0.05) if source is not None else None
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(Deps(scheduler, pool, reconciler)), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started, "the server starts")
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", pool, scheduler)
    finally:
        server.should_exit = True
        thread.join()


def wait_until(condition, what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for: {what}"
        time.sleep(0.02)
