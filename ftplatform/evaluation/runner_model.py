"""One loaded base and every adapter on it, behind lm-eval's model interface. Payload side.

One load per base instead of one per adapter: at eight billion parameters each load reads 16 GB.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ftplatform.core.errors import DataRefused
from ftplatform.evaluation.runner_choices import Answer, choice_log_probabilities
from ftplatform.evaluation.runner_task import END_OF_TURN
from ftplatform.training.stack import is_virtual, layers_folder
from ftplatform.training.virtual import VirtualTokens, generate, read_virtual

LOGITS_BYTES = {"cpu": 32 << 20, "cuda": 4 << 30}
"""Bytes of one batch of logits in float32. Generating for 500 items with 1.1 M parameters on one CPU thread took 3.8,
2.8, 2.2, 2.4 and 2.7 s with 8, 16, 32, 64 and 128 MiB."""
LARGEST_BATCH = 256


class ChatLM(HFLM):
    """lm-eval's model, rendering by the chat template alone and decoding greedily up to the end of the turn."""

    def __init__(self, model: Any, tokenizer: Any, beat: Callable[[], None]) -> None:
        # The template writes the beginning-of-sequence token where there is one; the tokenizer must not add another.
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", add_bos_token=False, batch_size=1)
        self._beat = beat
        self.start: VirtualTokens | None = None
        """What stands in front of every prompt; set by ``LoadedBase.using``."""
        ends = {tokenizer.eos_token_id, tokenizer.get_vocab().get(END_OF_TURN)}
        declared = model.generation_config.eos_token_id
        ends.update(declared if isinstance(declared, list) else [declared])
        self._ends = sorted(end for end in ends if end is not None)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As training and serving render it; lm-eval's own drops a system turn that the template refuses."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    @property
    def max_length(self) -> int:
        return int(super().max_length) - (self.start.length if self.start else 0)

    def lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each rendered text; one call for all, because a call costs more than a short text."""
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def fit_batch(self, longest: int) -> None:
        """Choose the batch size for sequences of up to ``longest`` tokens: logits are the largest tensor by far."""
        rows = LOGITS_BYTES[self.device.type] // (4 * longest * len(self.tokenizer))
        self.batch_size_per_gpu = max(1, min(LARGEST_BATCH, rows))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The prompt's ids as serving feeds them; lm-eval would move the template's last newline into the answer."""
        return self.tok_encode(context), self.tok_encode(continuation)

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Answer]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return choice_log_probabilities(
            self.model, pairs, prompts_per_batch=self.batch_size, beat=self._beat, start=self.start
        )

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **kwargs: Any) -> Any:
        # lm-eval would decode every row to text at every step to look for a stop string, and takes sampling penalties
        # from the model's own generation config; ids and a config of its own do neither.
        self._beat()
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_length - context.shape[1],
            eos_token_id=self._ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.no_grad():
            return generate(self.model, self.start, context, kwargs["attention_mask"], generation_config=config)


class LoadedBase:
    """A base in memory with its adapters attached; ``adapters`` maps the adapter's tree digest to its folder."""

    def __init__(self, folder: Path, adapters: dict[str, Path], beat: Callable[[], None]) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not tokenizer.chat_template:
            raise DataRefused(
                f"the model in {folder.name} has no chat template: register a base model that carries one"
            )
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            # bf16 gains nothing on a CPU and loses digits.
            dtype="auto" if device == "cuda" else torch.float32,
            local_files_only=True,
            use_safetensors=True,
        ).to(device)
        model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
        layers = {digest: place for digest, folder in adapters.items() if (place := layers_folder(folder))}
        self._names = {digest: f"adapter{number}" for number, digest in enumerate(layers)}
        for digest, place in layers.items():
            name = self._names[digest]
            if isinstance(model, PeftModel):
                model.load_adapter(str(place), adapter_name=name, torch_device=device)
            else:
                with warnings.catch_warnings():
                    # It only warns of tensors without a place; _check_engaged refuses them.
                    warnings.filterwarnings("ignore", message="Found missing adapter keys")
                    model = PeftModel.from_pretrained(model, str(place), adapter_name=name, torch_device=device)
            _check_engaged(model, name, place)
        self._model = model.eval()
        self._starts: dict[str, VirtualTokens] = {}
        for digest, place in adapters.items():
            if is_virtual(place):
                with self._switched(digest):
                    self._starts[digest] = read_virtual(model, place)
        self.lm = ChatLM(model, tokenizer, beat)

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[ChatLM]:
        """The language model as the base alone (None) or with one adapter; the adapter's digest names it."""
        self.lm.start = None if adapter is None else self._starts.get(adapter)
        with self._switched(adapter):
            yield self.lm

    @contextmanager
    def _switched(self, adapter: str | None) -> Iterator[None]:
        """Layers as the adapter has them; virtual tokens alone leave them to the base."""
        if adapter in self._names:
            self._model.set_adapter(self._names[adapter])
            yield
        elif self._names:
            with self._model.disable_adapter():
                yield
        else:
            yield


def _check_engaged(model: Any, name: str, folder: Path) -> None:
    """PEFT only warns when an adapter's tensors find no place in the base, and then scores the bare base."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        stored = set(file.keys())
    placed = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    if stored != placed:
        raise DataRefused(
            f"adapter {folder.name} does not fit its base: {len(stored - placed)} of its {len(stored)} tensors have "
            f"no place, {len(placed - stored)} places stay empty; it was trained on another base, a retry does not help"
        )
