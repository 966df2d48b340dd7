"""Two ranks under the real torchrun: the same training, and no process left behind."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load
from training_support import store_in, tiny_spec

from ftplatform.core.payload import PayloadResult, TrainSpec
from ftplatform.launchers.local import LocalLauncher
from ftplatform.launchers.processes import marked


def _train(launcher: LocalLauncher, spec: TrainSpec) -> PayloadResult:
    handle = launcher.submit(spec)
    result = launcher.wait(handle, lambda line: None, lambda: False, poll=0.2)
    assert result.outcome == "done", result.message + launcher.logs(handle, last=40)
    assert marked("FTPLATFORM_PAYLOAD", str(handle.folder)) == []
    return result


def _weights(folder: Path, result: PayloadResult) -> dict[str, torch.Tensor]:
    _, store = store_in(folder)
    (file,) = (f for f in store.tree(result.artifacts["weights"]).files if f.path.endswith(".safetensors"))
    return load(store.get_bytes(file.digest))


def test_two_ranks_train_what_one_rank_trains_with_twice_the_accumulation(tmp_path: Path) -> None:
    """Without dropout, because each rank draws its own."""
    launcher = LocalLauncher(tmp_path / "payloads")
    alone = tiny_spec(tmp_path, "a" * 64, kind="full", dropout=0.0)
    update = {"key": "b" * 64, "processes": 2, "strategy": "ddp", "accumulation": alone.accumulation // 2}
    together = alone.model_copy(update=update)
    one, two = (_weights(tmp_path, _train(launcher, spec)) for spec in (alone, together))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6)
