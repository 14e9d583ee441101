"""What a composed policy is, in words: members, target, samplers, cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from genpolicy.denoisers import Target
from genpolicy.ops import is_compiled
from genpolicy.policies.compiled import compiled_sampler, why_not_compiled
from genpolicy.policies.composed import ComposedPolicy
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.selection import SelectedPolicy
from genpolicy.sampling import class_of, plan

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What a policy samples; ``str()`` is for reading.

    Args:
        name: kind of policy, or the operator.
        settings: the operator's settings, as text.
        path: the path it runs on.
        target: what it is meant to sample; None for a trained policy.
        sampler: the sampler in use, as text.
        sampler_class: ``"ode"``, ``"sde"``, ``"corrected"`` or ``"particles"``.
        verdict: ``"exact"`` for trained policies, else ``"unbiased"``, ``"biased"`` or
            ``"heuristic"``.
        nfe: network evaluations per chunk and particle at most, those of all members and of the
            corrector together.
        n_particles: particles per chunk; 1 without particles.
        runs: what samples it: compiled operators, or torch and why.
        members: the members' own explanations, with the number of each that is in use.
    """

    name: str
    settings: str
    path: str
    target: Target | None
    sampler: str
    sampler_class: str
    verdict: str
    nfe: int
    n_particles: int
    runs: str = ""
    members: tuple[tuple[int, Explanation], ...] = ()

    def __str__(self) -> str:
        """Return several lines, members indented."""
        lines = [f"{self.name}({self.settings})", f"  path      {self.path}"]
        if self.target is not None:
            weight = self.target.total_weight
            total = "varies" if weight is None else f"{weight:g}"
            lines.append(f"  target    {self.target.density} (total weight {total})")
            unbiased = ", ".join(self.target.unbiased) or "none"
            lines.append(f"  unbiased  {unbiased}")
            if self.target.refused:
                refused = ", ".join(self.target.refused)
                lines.append(f"  refused   {refused}: {self.target.remedy}")
        lines.append(f"  sampler   {self.sampler} [{self.sampler_class}: {self.verdict}]")
        if self.target is not None and self.verdict == "biased" and self.target.note:
            lines.append(f"  note      {self.target.note}")
        crowd = f" x {self.n_particles} particles" if self.n_particles > 1 else ""
        lines.append(f"  cost      {self.nfe} network evaluations per chunk{crowd}")
        if self.runs:
            lines.append(f"  runs      {self.runs}")
        for number, member in self.members:
            first, *rest = str(member).splitlines()
            lines.append(f"  member {number}: {first}")
            lines += [f"    {line}" for line in rest]
        return "\n".join(lines)


def explain(policy: DenoisingPolicy) -> Explanation:
    """Return what a policy samples, at what cost, and what runs it."""
    reason = why_not_compiled(policy)
    runs = f"in torch: {reason}" if reason else "in compiled operators"
    if not reason and policy.sampler.precision != "fp32":
        runs += f", products in {compiled_sampler(policy).products}"
    scheduled = compiled_sampler(policy).scheduled if reason and is_compiled() else None
    if scheduled is not None:
        runs = f"networks in torch, steps in compiled operators: {reason}"
        if scheduled.recordings is not None:
            why_not = scheduled.recordings.reason
            runs += f"; no CUDA graph: {why_not}" if why_not else "; replayed as a CUDA graph"
    return replace(_explain(policy), runs=runs)


def _explain(policy: DenoisingPolicy) -> Explanation:
    steps = plan(policy.sampler.bound_rule, policy.path, policy.sampler.times_on(policy.path))
    kind = class_of(steps, policy.corrector)
    sampler = f"{policy.sampler.rule}, {policy.sampler.n_steps} steps on {policy.sampler.grid}"
    if isinstance(policy, SelectedPolicy):
        choice = "best" if policy.temperature == 0.0 else f"temperature {policy.temperature:g}"
        return replace(
            _explain(policy.policy),
            name=type(policy).__name__,
            settings=f"{choice} of {policy.n_candidates} by a critic",
            verdict="heuristic",
            nfe=policy.nfe,
            members=((0, _explain(policy.policy)),),
        )
    if not isinstance(policy, ComposedPolicy):
        denoiser = getattr(policy, "denoiser", None)
        predicts = getattr(denoiser, "predicts", None)
        settings = type(denoiser).__name__ + ("" if predicts is None else f", predicts {predicts}")
        return Explanation(
            name=type(policy).__name__,
            settings=settings,
            path=str(policy.path),
            target=None,
            sampler=sampler,
            sampler_class=kind,
            verdict="exact",
            nfe=policy.nfe,
            n_particles=1,
        )
    if policy.corrector_name is not None:
        sampler += f", corrector {policy.corrector_name}"
    if policy.n_particles is not None:
        kind = "particles"
        sampler += f", {policy.n_particles} particles"
    members = tuple((i, _explain(policy.members[i].policy)) for i in policy.used)
    corrections = 0
    if policy.corrector is not None:  # after every step but the last, where it acts at all levels
        corrections = getattr(policy.corrector, "nfe_per_level", 0) * (len(steps) - 1)
    evaluations = sum(policy.evaluations_of(i) for i in policy.used)
    return Explanation(
        name=type(policy.operator).__name__,
        settings=_settings(policy),
        path=str(policy.path),
        target=policy.target,
        sampler=sampler,
        sampler_class=kind,
        verdict=_verdict(policy.target, kind),
        nfe=(policy.nfe + corrections) * evaluations,
        n_particles=policy.n_particles or 1,
        members=members,
    )


def _settings(policy: ComposedPolicy) -> str:
    values = {
        name: type(value).__name__ if isinstance(value, nn.Module) else value
        for name, value in vars(policy.operator).items()
    }
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _verdict(target: Target | None, kind: str) -> str:
    if target is None:
        return "exact"
    if kind in target.unbiased:
        return "unbiased"
    return "biased" if target.unbiased else "heuristic"
