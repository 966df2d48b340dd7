"""Whether the serving engine will take what would be trained, asked before money is spent, with the nearest that it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ftplatform.core.methods import find_method
from ftplatform.core.recipe import LoraConfig
from ftplatform.planning.setup import Setup

Engine = Literal["vllm", "embedded"]
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's ``--max-lora-rank``, 16 by default. It loads adapters of every rank up to the flag's, each in the flag's room."""


@dataclass(frozen=True, slots=True)
class Servable:
    ok: bool
    why: str
    nearest: Setup | None = None
    """The setup changed as little as makes it servable; None when it is servable already, or when nothing is."""


def servable(setup: Setup, engine: Engine = "vllm") -> Servable:
    """Ask the rules of ``engine``.

    vLLM loads LoRA without DoRA, bias or extra modules, up to its largest rank; prompt adapters were removed from it, and it has no
    prefix or IA3. Full weights are a model of their own. The embedded engine takes LoRA without DoRA, IA3, prefix, prompt, and LoRA
    below the last two.
    """
    if not find_method(setup.method).answers:
        return Servable(True, f"a model trained by {setup.method} scores text and is not served as a chat model")
    if setup.full:
        return Servable(True, "full weights are served as a model of their own")
    if engine == "embedded":
        if setup.parameterisation == "lora" and setup.lora and setup.lora.use_dora:
            plain = setup.lora.model_copy(update={"use_dora": False})
            why = "the embedded engine switches adapters, and DoRA is none that can be: use plain LoRA, or rsLoRA"
            return Servable(False, why, replace(setup, lora=plain))
        return Servable(True, f"the embedded engine serves {setup.parameterisation} adapters")
    if setup.parameterisation != "lora":
        return Servable(
            False,
            f"vLLM does not serve {setup.parameterisation} adapters: it accepts LoRA and full weights",
            replace(
                setup, parameterisation="lora", lora=(setup.lora or LoraConfig()).model_copy(update={"use_dora": False})
            ),
        )
    lora = setup.lora or LoraConfig()
    # PiSSA is saved as plain LoRA of twice the rank.
    factor = 2 if lora.init_lora_weights == "pissa" else 1
    fixes: list[str] = []
    if lora.use_dora:
        fixes.append("vLLM refuses DoRA: use plain LoRA, or rsLoRA")
        lora = lora.model_copy(update={"use_dora": False})
    doubled = f" (PiSSA of rank {lora.rank} is saved with twice the rank)" if factor == 2 else ""
    if lora.rank * factor > VLLM_RANKS[-1]:
        rank = VLLM_RANKS[-1] // factor
        fixes.append(
            f"vLLM does not accept rank {lora.rank * factor}{doubled}: it accepts at most {VLLM_RANKS[-1]}; the nearest is rank {rank}"
        )
        lora = lora.model_copy(update={"rank": rank, "alpha": lora.alpha * rank / lora.rank})
    if fixes:
        return Servable(False, "; ".join(fixes), replace(setup, lora=lora))
    flag = next(rank for rank in VLLM_RANKS if rank >= lora.rank * factor)
    return Servable(
        True,
        f"vLLM serves LoRA of rank {lora.rank * factor}{doubled} where it was started with --max-lora-rank {flag} or more",
    )
