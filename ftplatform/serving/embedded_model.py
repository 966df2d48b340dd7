"""One set of base weights in memory, with the LoRA adapters that can be switched on in it.

Which adapter a PEFT model uses is state of the whole model, not of a call: whoever switches it between another's switch
and forward makes the wrong adapter answer, without any error. So everything that touches the model here runs on one
thread (asserted), and every forward names its adapter, switches to it and reads the switch back from every layer before
it computes.
"""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, DynamicCache

from ftplatform.core.errors import InvalidConfig
from ftplatform.training.stack import is_virtual, layers_folder
from ftplatform.training.virtual import VirtualTokens, read_virtual

KINDS: dict[str, Any] = {
    "LORA": LoraConfig,
    "IA3": IA3Config,
    "PREFIX_TUNING": PrefixTuningConfig,
    "PROMPT_TUNING": PromptTuningConfig,
}


class WrongAdapter(RuntimeError):
    """The model's layers do not have the adapter on that the request names; nothing was computed."""


class Instance:
    """``thread`` is the identity of the only thread that may touch the model; None takes the first that does."""

    def __init__(self, folder: Path) -> None:
        _refuse_pickles(folder)
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        ).eval()
        self.config = self._model.config
        self.max_length: int = self.config.max_position_embeddings
        self.vocabulary: int = self.config.vocab_size
        self.users = 0
        """Served models that use these weights; kept by the pool, under its lock."""
        self._peft: PeftModel | None = None
        self._layers: list[BaseTunerLayer] = []
        self._active: str | None = None
        self._numbers = itertools.count(1)
        self._thread: int | None = None
        self._layered: set[str] = set()
        """Names of adapters that change layers; virtual tokens alone leave them to the base."""
        self._starts: dict[str, VirtualTokens] = {}

    def room(self, adapter: str | None) -> int:
        """Tokens of a prompt with its answer: the model's context without the adapter's virtual tokens."""
        start = self._starts.get(adapter or "")
        return self.max_length - (start.length if start else 0)

    def forward(self, adapter: str | None, ids: list[int], cache: DynamicCache) -> torch.Tensor:
        """Logits (vocabulary,) after the last of ``ids``, which are appended to ``cache``; ``adapter`` None is the base
        itself.

        Raises:
            WrongAdapter: the switch did not take.
        """
        return self._forward(adapter, ids, cache, 1)[0]

    def score(self, adapter: str | None, prompt: list[int], tokens: list[int]) -> tuple[list[int], list[float]]:
        """The greedy choice at each place of ``tokens`` after ``prompt``, and the log-probability in nats of each
        token.
        """
        ids = prompt + tokens
        logits = self._forward(adapter, ids[:-1], DynamicCache(config=self.config), len(tokens))
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        return logits.argmax(-1).tolist(), logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()

    def _forward(self, adapter: str | None, ids: list[int], cache: DynamicCache, keep: int) -> torch.Tensor:
        self._own_thread()
        layers = adapter if adapter in self._layered else None
        if adapter is not None and layers is None and adapter not in self._starts:
            raise WrongAdapter(f"there is no adapter {adapter!r} in the model")
        self._switch(layers)
        self._verify(layers)
        if adapter in self._starts and not cache.get_seq_length():
            self._starts[adapter].fill(cache)
        with torch.inference_mode():
            # The injected model is called directly: PeftModel's own forward adds nothing for LoRA but a tenth of the
            # time.
            logits = self._model(
                input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=keep
            ).logits
        result: torch.Tensor = logits[0]
        return result

    def _switch(self, adapter: str | None) -> None:
        if adapter == self._active:
            return
        # PEFT's own set_adapter also visits every loaded adapter to set requires_grad: 0.9 ms on a 3-layer model,
        # against 0.05 ms.
        for layer in self._layers:
            layer._active_adapter = [] if adapter is None else [adapter]
            layer._disable_adapters = adapter is None
        self._active = adapter

    def _verify(self, adapter: str | None) -> None:
        # Through PEFT's public properties, so a version that renames the attributes set above fails here instead of
        # lying.
        for layer in self._layers:
            active = None if layer.disable_adapters else layer.active_adapters
            if layer.merged or active != (None if adapter is None else [adapter]):
                raise WrongAdapter(f"asked for adapter {adapter!r}, a layer has {active!r} on (merged: {layer.merged})")

    def add_adapter(self, folder: Path) -> str:
        """Put the PEFT folder's adapter into the model and return its name within it, which is never used twice.

        Raises:
            InvalidConfig: its tensors do not fit this base.
        """
        self._own_thread()
        name = f"a{next(self._numbers)}"
        try:
            if layers := layers_folder(folder):
                self._add_layers(layers, name)
            if is_virtual(folder):
                self._switch(name if layers else None)
                self._starts[name] = read_virtual(self._model, folder)
        except (RuntimeError, ValueError) as error:
            self._drop(name)
            if isinstance(error, InvalidConfig):
                raise
            raise InvalidConfig(f"the adapter's tensors do not fit the base model: {error}") from error
        finally:
            self._forget_switch()
        return name

    def _add_layers(self, folder: Path, name: str) -> None:
        if self._peft is None:
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            self._peft = PeftModel(self._model, config, adapter_name=name, low_cpu_mem_usage=True)
        result = self._peft.load_adapter(str(folder), name, low_cpu_mem_usage=True, local_files_only=True)
        strange = [*result.unexpected_keys, *(key for key in result.missing_keys if f".{name}." in key)]
        if strange:
            raise InvalidConfig(
                f"the adapter's tensors do not fit the base model: {len(strange)} are unknown or absent, "
                f"first {strange[0]}"
            )
        self._peft.eval()
        self._layered.add(name)
        self._forget_switch()

    def remove_adapter(self, name: str) -> None:
        self._own_thread()
        self._drop(name)
        self._forget_switch()

    def _drop(self, name: str) -> None:
        self._starts.pop(name, None)
        self._layered.discard(name)
        if self._peft is not None and name in self._peft.peft_config:
            self._peft.delete_adapter(name)

    def _forget_switch(self) -> None:
        """PEFT switches adapters as it adds and deletes them, so what is on must be set anew."""
        self._layers = [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]
        self._active = "unknown"

    def _own_thread(self) -> None:
        here = threading.get_ident()
        if self._thread is None:
            self._thread = here
        if self._thread != here:
            raise RuntimeError("a model was touched from a second thread; go through Scheduler.call")


def check_adapter(folder: Path, max_rank: int) -> None:
    """Whether an adapter folder is LoRA, IA3, virtual tokens, or LoRA below virtual tokens, as an engine that switches
    adapters needs it.

    Raises:
        InvalidConfig: naming what stands against it.
    """
    path = folder / "adapter_config.json"
    if not path.is_file() or not (folder / "adapter_model.safetensors").is_file():
        found = sorted(file.name for file in folder.iterdir())
        raise InvalidConfig(f"adapter: needed are adapter_config.json and adapter_model.safetensors, found {found}")
    config: dict[str, Any] = json.loads(path.read_text())
    kind = KINDS.get(str(config.get("peft_type")))
    known = set(kind.__dataclass_fields__) if kind else set(config)
    rank = max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values()])
    refused = {
        f"peft_type {config.get('peft_type')}": kind is None,
        "modules_to_save": bool(config.get("modules_to_save")),
        "use_dora": bool(config.get("use_dora")),
        f"bias {config.get('bias')!r}": config.get("bias", "none") != "none" or bool(config.get("lora_bias")),
        "trainable_token_indices": bool(config.get("trainable_token_indices")),
        "layer_replication": bool(config.get("layer_replication")),
        "prefix_projection": bool(config.get("prefix_projection")),
        f"rank {rank} (the most is {max_rank})": rank > max_rank,
        f"unknown fields {sorted(config.keys() - known)}": bool(config.keys() - known),
    }
    if reasons := [reason for reason, holds in refused.items() if holds]:
        raise InvalidConfig(
            f"adapter: cannot be switched on and off in a running engine because of {', '.join(reasons)}; "
            "accepted are plain LoRA, IA3, prefix and prompt"
        )
    if is_virtual(folder) and (below := layers_folder(folder)):
        check_adapter(below, max_rank)


def _refuse_pickles(folder: Path) -> None:
    if not list(folder.glob("*.safetensors")):
        raise InvalidConfig(f"model folder: no *.safetensors, found {sorted(file.name for file in folder.iterdir())}")
