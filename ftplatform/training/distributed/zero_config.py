"""DeepSpeed's configuration of a training: a pure function of the spec, without torch."""

from __future__ import annotations

from typing import Any

from ftplatform.core.payload import TrainSpec

BUCKET = 100_000_000
"""Elements a collective handles at a time: 0.2 GB in bf16 per buffer; DeepSpeed's own 500 million would take 1 GB each."""


def deepspeed_config(spec: TrainSpec) -> dict[str, Any]:
    """ZeRO-2, ZeRO-3, or ZeRO-3 with optimizer states in host memory (Rajbhandari et al. 2020, arXiv:1910.02054; 2021,
    arXiv:2101.06840).

    Raises:
        ValueError: a strategy that is not DeepSpeed's.
    """
    stages = {"zero2": 2, "zero3": 3, "offload": 3}
    if spec.strategy not in stages:
        raise ValueError(f"strategy {spec.strategy} is not DeepSpeed's: accepted are {', '.join(stages)}")
    zero: dict[str, Any] = {
        "stage": stages[spec.strategy],
        "contiguous_gradients": True,
        "overlap_comm": False,
        "reduce_bucket_size": BUCKET,
    }
    if zero["stage"] == 3:
        zero |= {
            "stage3_prefetch_bucket_size": BUCKET // 2,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    else:
        zero["allgather_bucket_size"] = BUCKET
    if spec.strategy == "offload":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    bf16 = spec.training.precision == "bf16"
    return {
        "zero_optimization": zero,
        # The optimizer is torch's AdamW in every strategy, so that a checkpoint moves between them; DeepSpeed's own one
        # for the host would also need a compiler in the image.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bf16},
        # Left to itself DeepSpeed adds micro-batches up, and sums over the processes, in the weights' bf16: what is below
        # 1/256 of the sum so far is lost, and micro-batches would show. It costs twice the bytes on the network.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "train_micro_batch_size_per_gpu": spec.micro_batch,
        "gradient_accumulation_steps": spec.accumulation,
        "train_batch_size": spec.micro_batch * spec.accumulation * spec.processes,
        "gradient_clipping": spec.training.max_grad_norm,
        "wall_clock_breakdown": False,
    }
