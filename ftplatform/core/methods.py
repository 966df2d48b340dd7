"""Training methods as the control plane knows them: options, accepted data, needs. The code is named, not imported.

A plug-in names a ``MethodInfo`` in the entry point group ``ftplatform.methods``; its recipe fields go under ``options``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.frozen import Frozen
from ftplatform.core.graders import Grader
from ftplatform.core.ids import BaseKey

GROUP = "ftplatform.methods"


class DpoConfig(Frozen):
    loss: Literal["sigmoid", "ipo", "simpo"] = "sigmoid"
    """Rafailov et al. 2023 (arXiv:2305.18290), Azar et al. 2023 (arXiv:2310.12036), Meng et al. 2024 (arXiv:2405.14734)."""
    beta: float = Field(0.1, gt=0)
    """How hard to stay near the starting model; IPO's tau; SimPO wants 2 or more."""
    gamma: float = Field(0.5, ge=0.0)
    """SimPO: the margin that chosen must have over rejected, in rewards."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5)
    """Share of pairs believed to be the wrong way round; not with IPO."""


class OrpoConfig(Frozen):
    weight: float = Field(0.1, ge=0.0)
    """lambda of Hong et al. 2024 (arXiv:2403.07691): weight of the odds ratio beside the likelihood of the chosen."""


class KtoConfig(Frozen):
    beta: float = Field(0.1, gt=0)
    desirable_weight: float = Field(1.0, ge=0.0)
    undesirable_weight: float = Field(1.0, ge=0.0)


class RewardConfig(Frozen):
    center: float = Field(0.0, ge=0.0)
    """Weight of (chosen + rejected score)^2, which keeps scores around 0 (Eisenstein et al. 2023, arXiv:2312.09244)."""


class PolicyConfig(Frozen):
    """What GRPO and RLOO share. ``batch_size`` counts prompts, each answered ``group_size`` times."""

    rewards: tuple[Grader, ...] = ()
    """Graders; the reward of an answer is the sum of their scores times their weights."""
    group_size: int = Field(8, ge=2)
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0.0)


class GrpoConfig(PolicyConfig):
    kl: float = Field(0.0, ge=0.0)
    """Weight of the divergence from the starting model, per token; above 0 it costs a copy of the trained weights."""
    scale_rewards: bool = True
    """Divide advantages by the group's standard deviation (arXiv:2402.03300); without it as in arXiv:2503.20783."""
    normalize: Literal["sequence", "batch", "length"] = "batch"
    """Mean over an answer's tokens then answers (GRPO), over all tokens (DAPO), or over ``max_new_tokens`` (Dr. GRPO)."""


class RlooConfig(PolicyConfig):
    kl: float = Field(0.05, ge=0.0)
    """Weight of the divergence from the starting model, subtracted from the reward (arXiv:2402.14740)."""


class DistillationConfig(Frozen):
    teacher: str | None = None
    """Key ``slug@revision`` of a made base model with the same vocabulary."""
    divergence: Literal["forward", "reverse"] = "forward"
    """KL(teacher || student), which covers, or KL(student || teacher), which picks (arXiv:2306.08543)."""
    temperature: float = Field(1.0, gt=0.0)
    hard_labels: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the ordinary next-token loss in the sum."""

    @field_validator("teacher")
    @classmethod
    def _teacher_is_a_base_key(cls, value: str | None) -> str | None:
        return value if value is None else str(BaseKey.parse(value))


@dataclass(frozen=True, slots=True)
class MethodInfo:
    name: str
    layouts: tuple[str, ...]
    """Shard layouts it learns from (``data/tokens/shards.py``)."""
    implementation: str
    """``module:Class``, a ``training.methods.base.TrainingMethod``; imported by the payload alone."""
    options: type[Frozen] | None = None
    unit: str = "packed sequences"
    """What ``batch_size`` and the micro-batch count."""
    sequences: int = 1
    """Sequences of a shard per unit: 2 for pairs."""
    reference: bool = False
    """Log-probabilities of the starting model are computed once, over every row, before the first step."""
    generates: bool = False
    """Answers are generated in training: a key-value cache, and time that token counts do not show."""
    answers: bool = True
    """Whether the result generates text; a reward model scores it and cannot be evaluated or served as a chat model."""


def _ours(
    name: str, layouts: tuple[str, ...], place: str, options: type[Frozen] | None = None, **needs: Any
) -> MethodInfo:
    return MethodInfo(name, layouts, f"ftplatform.training.methods.{place}", options, **needs)


_PAIRS: dict[str, Any] = {"unit": "pairs", "sequences": 2}
_PROMPTS: dict[str, Any] = {"unit": "prompts", "generates": True}
BUILT_IN = {
    info.name: info
    for info in (
        _ours("sft", ("sft", "text"), "tokens:NextToken"),
        _ours("cpt", ("text",), "tokens:NextToken"),
        _ours("dpo", ("preference",), "preference:Dpo", DpoConfig, reference=True, **_PAIRS),
        _ours("orpo", ("preference",), "preference:Orpo", OrpoConfig, **_PAIRS),
        _ours("kto", ("kto",), "kto:Kto", KtoConfig, unit="examples", reference=True),
        _ours("reward", ("preference",), "reward:RewardModel", RewardConfig, answers=False, **_PAIRS),
        _ours("grpo", ("prompts",), "policy:Grpo", GrpoConfig, **_PROMPTS),
        _ours("rloo", ("prompts",), "policy:Rloo", RlooConfig, **_PROMPTS),
        _ours("distillation", ("sft", "text"), "distillation:Distillation", DistillationConfig),
    )
}


@cache
def _plug_in(name: str) -> MethodInfo | None:
    for point in entry_points(group=GROUP, name=name):
        info = point.load()
        if not isinstance(info, MethodInfo) or info.name != name:
            raise InvalidConfig(
                f"the plug-in {point.value} of the method {name!r} gives {info!r}; accepted is a "
                f"ftplatform.core.methods.MethodInfo of that name. A retry without a change of the package does not help"
            )
        return info
    return None


def find_method(name: str) -> MethodInfo:
    """A built-in method or a plug-in's; a built-in cannot be replaced.

    Raises:
        InvalidConfig: no such method, or its plug-in names something else.
    """
    info = BUILT_IN.get(name) or _plug_in(name)
    if info is None:
        known = sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})
        hint = " PPO is offered as grpo or rloo, with a reward model as the reward." if name == "ppo" else ""
        raise InvalidConfig(f"there is no method {name!r}: accepted are {', '.join(known)}, and plug-ins.{hint}")
    return info


def check_method(name: str) -> str:
    return find_method(name).name


Method = Annotated[str, AfterValidator(check_method), Field(examples=list(BUILT_IN))]


def method_options(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The options of method ``name`` with every default filled in.

    Raises:
        InvalidConfig: a field that the method does not know or take, or one it cannot do without.
    """
    info = find_method(name)
    if info.options is None:
        if fields:
            raise InvalidConfig(f"the method {name} takes no options; found {', '.join(sorted(fields))}")
        return {}
    try:
        options = info.options.model_validate(fields)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidConfig(f"the options of the method {name} cannot be used: {said}") from error
    if isinstance(options, PolicyConfig) and not options.rewards:
        raise InvalidConfig(f"the method {name} has nothing to reward answers by: name graders in `{name}.rewards`")
    if isinstance(options, DistillationConfig) and options.teacher is None:
        raise InvalidConfig(
            "distillation has no teacher: name a base model's key, slug@revision, in `distillation.teacher`"
        )
    if isinstance(options, DpoConfig) and options.loss == "ipo" and options.label_smoothing:
        raise InvalidConfig("dpo.label_smoothing is not defined for the loss ipo: accepted with sigmoid and simpo")
    return options.model_dump(mode="json")
