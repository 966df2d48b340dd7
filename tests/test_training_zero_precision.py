"""Under bf16 DeepSpeed's gradients are added up in fp32, as those of every other strategy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from training_support import tiny_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MICRO_BATCHES = 1024
"""Equal terms in bf16 stop adding up at the 256th."""
SUMMED = f"""
import json, sys
import torch
from ftplatform.core.payload import TrainSpec
from ftplatform.training.distributed.zero import open_deepspeed
from ftplatform.training.distributed.zero_config import deepspeed_config

spec = TrainSpec.model_validate_json(open(sys.argv[1]).read())
torch.distributed.init_process_group("gloo")
open_deepspeed()
import deepspeed
model = torch.nn.Linear(8, 1, bias=False)
torch.nn.init.zeros_(model.weight)
engine, *_ = deepspeed.initialize(
    model=model, config=deepspeed_config(spec), optimizer=torch.optim.SGD(model.parameters(), lr=1.0)
)
for _ in range({MICRO_BATCHES}):
    engine.backward(engine(torch.ones(1, 8, dtype=torch.bfloat16)).float().sum())
    engine.step()
print(json.dumps(deepspeed.utils.safe_get_full_fp32_param(model.weight).flatten().tolist()))
"""


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_many_micro_batches_add_up(tmp_path: Path, strategy: str) -> None:
    spec = tiny_spec(tmp_path, "a" * 64, kind="full")
    training = spec.training.model_copy(update={"precision": "bf16", "batch_size": MICRO_BATCHES, "max_grad_norm": 1e6})
    spec = spec.model_copy(
        update={"training": training, "strategy": strategy, "micro_batch": 1, "accumulation": MICRO_BATCHES}
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SUMMED, str(tmp_path / "spec.json")],
        env=os.environ | world, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    # The mean over the micro-batches of a gradient of one, a step of one against it.
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx([-1.0] * 8, rel=1e-3)
