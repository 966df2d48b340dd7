"""What an Axolotl file trains: ``rl``, ``trl`` and reward models (``core/builders/rl.py``; defaults from TRL's configurations)."""

from __future__ import annotations

from ftplatform.recipes.convert.reading import Reading

_RL = {"dpo": "dpo", "ipo": "dpo", "simpo": "dpo", "orpo": "orpo", "kto": "kto", "grpo": "grpo"}
_LOSSES = ("sigmoid", "ipo")
_BETA = {"dpo": "dpo.beta", "kto": "kto.beta", "orpo": "orpo.weight", "grpo": "grpo.kl"}
"""What the one key ``rl_beta`` means; TRL's ORPO takes the weight of the odds ratio for it."""
_OWN = {
    "dpo": {"dpo_label_smoothing": "dpo.label_smoothing", "simpo_gamma": "dpo.gamma"},
    "kto": {"kto_desirable_weight": "kto.desirable_weight", "kto_undesirable_weight": "kto.undesirable_weight"},
    "grpo": {
        "trl.num_generations": "grpo.group_size",
        "trl.max_completion_length": "grpo.max_new_tokens",
        "trl.temperature": "grpo.temperature",
    },
}
_NORMALIZE = {"grpo": "sequence", "dapo": "batch", "dr_grpo": "length"}


def method(reading: Reading) -> None:
    rl = str(reading.take("rl") or "")
    if reading.flag("process_reward_model"):
        reading.refuse("process_reward_model", "rewards of single steps are not offered; method reward scores answers")
    elif rl in _RL:
        _rl(reading, rl, _RL[rl])
    elif rl:
        reading.refuse("rl", f"not one of {', '.join(sorted(_RL))}")
    elif reading.flag("reward_model"):
        reading.put("method", "reward")
        reading.carry({"center_rewards_coefficient": "reward.center"})
        reading.agree("num_labels", 1, why="a reward model has one score", nearest="method")
    else:
        reading.put("method", "cpt" if reading.has("pretraining_dataset") else "sft")
    if rl and reading.flag("reward_model"):
        reading.leave("reward_model", "rl says what is trained", "method")


def _rl(reading: Reading, rl: str, name: str) -> None:
    reading.put("method", name)
    if rl in ("ipo", "simpo"):
        reading.put("dpo.loss", rl)
    _beta(reading, name)
    reading.carry(_OWN.get(name, {}))
    if rl == "dpo":
        losses = reading.take("dpo_loss_type", ["sigmoid"])
        losses = losses if isinstance(losses, list) else [losses]
        if len(losses) == 1 and losses[0] in _LOSSES:
            reading.put("dpo.loss", losses[0])
        else:
            reading.refuse("dpo_loss_type", f"accepted is one of {', '.join(_LOSSES)}")
        reading.agree("dpo_use_weighting", False, why="pairs weigh alike", nearest="dpo.loss")
    if rl == "simpo":
        _simpo(reading)
    if name == "grpo":
        _grpo(reading)
    reading.leave("rpo_alpha", "the likelihood of the chosen answers is not added", "orpo.weight")
    reading.meaningless("precompute_ref_log_probs")


def _beta(reading: Reading, name: str) -> None:
    """In Axolotl's order; the first counts."""
    keys = [key for key in ("trl.beta", "rl_beta", "dpo_beta", "orpo_alpha") if reading.has(key)]
    if name != "orpo":
        keys = [key for key in keys if key != "orpo_alpha"]
    for place, key in enumerate(keys):
        if place:
            reading.leave(key, f"{keys[0]} holds there", _BETA[name])
        elif (value := reading.number(key)) is not None:
            reading.put(_BETA[name], value)


def _simpo(reading: Reading) -> None:
    """TRL's CPO adds the chosen answers' likelihood unless told not to (``cpo_alpha`` 1.0)."""
    why = "the likelihood of the chosen answers is not added to SimPO here"
    if not reading.has("cpo_alpha"):
        reading.note(f"cpo_alpha is 1.0 where an Axolotl file does not say it: {why}.")
    reading.agree("cpo_alpha", 0, 0.0, why=why, nearest="orpo.weight")


def _grpo(reading: Reading) -> None:
    scale = str(reading.take("trl.scale_rewards", True)).lower()
    if scale in ("true", "group", "false", "none"):
        reading.put("grpo.scale_rewards", scale in ("true", "group"))
    else:
        reading.leave("trl.scale_rewards", "rewards are scaled over a prompt's answers, or not", "grpo.scale_rewards")
    reading.choose("trl.loss_type", "grpo.normalize", _NORMALIZE, "dapo")
    reading.agree("trl.num_iterations", 1, why="answers are used for one step", nearest="training.batch_size")
    for key in ("trl.reward_funcs", "trl.reward_weights"):
        reading.leave(key, "rewards are graders by name, or a trained reward model", "grpo.rewards")
    for key in ("trl.use_vllm", *reading.starting("trl.vllm"), *reading.starting("vllm")):
        reading.leave(key, "the training itself generates the answers")
    reading.meaningless("trl.log_completions", "trl.num_completions_to_print")
