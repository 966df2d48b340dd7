"""A base of 60 MB in bf16, and how much memory of its own a process takes beside the files that it maps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

BLOCKS = 10
MEGABYTES = 60
"""Of the file. In fp32 the weights take 120, a block 10 and the embeddings 20."""


def bf16_base(folder: Path, blocks: int = BLOCKS) -> Path:
    """A Llama of 30 million weights, ``blocks`` of them 2.6 million each."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


class OwnMemory:
    """While entered, watches this process's anonymous memory; ``peak`` is the growth in MB."""

    def __init__(self) -> None:
        self.peak, self._done = 0.0, threading.Event()

    def __enter__(self) -> OwnMemory:
        self._before = anonymous()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.is_set():
            self.peak = max(self.peak, anonymous() - self._before)
            time.sleep(0.0005)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.peak = max(self.peak, anonymous() - self._before)
        self._done.set()
        self._thread.join()


def anonymous() -> float:
    """MB that no file backs, so that the kernel cannot drop them."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1e3


def in_fresh_processes(module: str, function: str, *arguments: str, processes: int = 1) -> list[Any]:
    """What ``function`` of a test module prints as JSON, by rank: a used process has free memory that hides a growth."""
    code = f"import sys; from {module} import {function}; {function}(*sys.argv[1:])"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
        "OMP_NUM_THREADS": "1",
        # A heap that keeps what was freed would count it.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        "WORLD_SIZE": str(processes),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    answers = []
    for process in started:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        answers.append(json.loads(out.splitlines()[-1]))
    return answers
