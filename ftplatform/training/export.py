"""An adapter made part of its base's weights, as a Hugging Face folder that anybody loads.

``python -m ftplatform.training.export request.json`` does what ``ft adapter`` asks for: ``{"work": "merge" | "export", ...the
function's arguments}`` in, ``result.json`` beside it out, with ``record`` or ``error``.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from ftplatform.core.errors import FtError, InvalidConfig
from ftplatform.training.merging import merge_adapters
from ftplatform.training.model import load_base
from ftplatform.training.stack import is_virtual, put_on

TOLERANCE = 1e-5
"""Largest difference of a logit that fp32 weights may have from base and adapter, relative to the largest logit."""
_PROBE = 48


def export_merged(base: Path, adapter: Path, into: Path, *, dtype: str = "fp32") -> dict[str, Any]:
    """Write base and adapter as one model to ``into``; return ``{"largest_difference", "dtype", "untied"}``.

    Tied embeddings stay tied, unless the adapter changes one of the two matrices: then they are two. What was written is loaded
    again and compared on a probe, in fp32.

    Raises:
        InvalidConfig: virtual tokens, which are no weights; a base that is stored quantized; or a model that answers otherwise.
    """
    if is_virtual(adapter):
        raise InvalidConfig(
            "virtual tokens (prefix, prompt) are no change of weights and cannot be merged into them: export the adapter "
            "without --merged"
        )
    config = json.loads((base / "config.json").read_text())
    if stored := config.get("quantization_config"):
        raise InvalidConfig(
            f"the base is stored quantized ({stored.get('quant_method')}): rounding the merged weights again would change them. "
            "Register the base that is not quantized, and merge into that"
        )
    ids = torch.randint(0, config["vocab_size"], (2, _PROBE), generator=torch.Generator().manual_seed(0))
    model = load_base(base).eval()
    kept = {name for name in ("attention_dropout", "use_cache") if name in config}
    # In fp32: the sum is then as exact as base and adapter one after the other.
    tuned, _ = put_on(model, adapter)
    with torch.no_grad():
        wanted = tuned(input_ids=ids).logits
    untied = _untie(tuned)
    with warnings.catch_warnings():
        # PEFT warns of tied embeddings whatever was done about them.
        warnings.filterwarnings("ignore", message=".*tie", category=UserWarning)
        merged = tuned.merge_and_unload()
    if dtype == "bf16":
        merged = merged.to(torch.bfloat16)
    for name in kept:
        setattr(merged.config, name, config[name])
    merged.save_pretrained(into)
    for path in sorted(base.iterdir()):
        weights = path.suffix in (".safetensors", ".bin", ".pt") or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.name != "config.json":
            shutil.copyfile(path, into / path.name)
    del merged, tuned, model
    with torch.no_grad():
        found = load_base(into).eval()(input_ids=ids).logits
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if dtype == "fp32" and difference > TOLERANCE:
        raise InvalidConfig(
            f"the merged model answers otherwise than base and adapter: logits differ by {difference:.2g}"
        )
    return {"largest_difference": difference, "dtype": dtype, "untied": untied}


def _untie(tuned: Any) -> bool:
    """Give the output layer a matrix of its own where it shares the embeddings' and an adapter changes one of them."""
    head, embeddings = tuned.get_output_embeddings(), tuned.get_input_embeddings()
    inner = [getattr(module, "base_layer", module) for module in (head, embeddings)]
    changed = any(hasattr(module, "base_layer") for module in (head, embeddings))
    if not changed or inner[0].weight is not inner[1].weight:
        return False
    inner[0].weight = torch.nn.Parameter(inner[1].weight.detach().clone(), requires_grad=False)
    tuned.get_base_model().config.tie_word_embeddings = False
    return True


def main(request: Path) -> int:
    given = json.loads(request.read_text())
    work = given.pop("work")
    try:
        if work == "merge":
            folders, into = [Path(one) for one in given.pop("folders")], Path(given.pop("into"))
            answer: dict[str, Any] = {"record": merge_adapters(folders, given.pop("weights"), into, **given)}
        else:
            places = [Path(given.pop(name)) for name in ("base", "adapter", "into")]
            answer = {"record": export_merged(*places, **given)}
    except FtError as error:
        answer = {"error": str(error)}
    (request.parent / "result.json").write_text(json.dumps(answer))
    return int("error" in answer)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
