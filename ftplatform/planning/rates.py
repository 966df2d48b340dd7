"""The peak learning rate of a training that does not say one."""

from __future__ import annotations

from ftplatform.planning.setup import Setup
from ftplatform.planning.shapes import ModelShape

_FULL = {"dpo": 5e-7, "kto": 5e-7, "orpo": 5e-6, "reward": 1e-5, "grpo": 1e-6, "rloo": 1e-6}
"""Of full weights, by method. DPO: alignment-handbook's zephyr-7b (5e-7, and 5e-6 with adapters; Tunstall et al. 2023,
arXiv:2310.16944). KTO: TRL's example, as DPO. ORPO: 5e-6 to 8e-6 (Hong et al. 2024, arXiv:2403.07691). Reward models: 5e-6 to
1e-5 (Llama 2, Touvron et al. 2023, section 3.2.2). GRPO: DeepSeekMath's policy (Shao et al. 2024, arXiv:2402.03300), which RLOO
takes too. What learns tokens (SFT, continued pre-training, distillation) has the rates of ``learning_rate``.
"""


def learning_rate(setup: Setup, shape: ModelShape) -> float:
    """Peak learning rate. Full weights learning tokens: 2e-5 below 10 billion weights, 1e-5 above, as the base models' own recipes.

    LoRA ten times as much (Schulman et al. 2025); the few weights of prompt, prefix and IA3 more still (Lester et al. 2021, Liu
    et al. 2022), in the same proportion for every method.
    """
    tokens = 2e-5 if shape.parameters < 1e10 else 1e-5
    full = _FULL.get(setup.method, tokens)
    more = {"full": 1.0, "lora": 10.0, "ia3": 250.0, "prefix": 500.0, "prompt": 1500.0}[setup.parameterisation]
    # Rounded because 5e-7 x 10 is not 5e-6 in binary.
    return float(f"{full * more:.3g}")
