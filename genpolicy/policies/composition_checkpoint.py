"""Compositions on disk: a folder with the recipe in JSON and its members' checkpoints in it.

::

    policy.json          "kind": "composition", operator, sampler, corrector, particles, members
    members/0, 1, ...    the members' own checkpoints, compositions among them

or, for a proposal that another policy corrects::

    policy.json          "kind": "proposal", level
    members/0, 1         the proposal, the policy that goes on

or, for samples that a critic chooses among::

    policy.json          "kind": "selection", n_candidates, temperature
    members/0            the policy
    critic               the critic's own checkpoint (also of guidance by a critic)

It is self-contained, and like every checkpoint nothing in it is executed on loading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from genpolicy.config import build, config_of
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.files import publish_folder, write_json
from genpolicy.policies.cards import read_json_card
from genpolicy.policies.composed import ComposedPolicy, MemberOf
from genpolicy.policies.critic import Critic
from genpolicy.policies.critic_checkpoint import CRITIC_FOLDER, load_critic, save_critic
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.operators import ValueGuidance
from genpolicy.policies.proposal import ProposalPolicy
from genpolicy.policies.selection import SelectedPolicy

__all__ = ["is_composition", "load_composition", "save_composition"]

SCHEMA_VERSION = 1
_RECIPE = "policy.json"
_KINDS = ("composition", "proposal", "selection")
Loaded: TypeAlias = ComposedPolicy | ProposalPolicy | SelectedPolicy


def is_composition(folder: Path) -> bool:
    """Return whether a checkpoint folder holds a composition."""
    try:
        return json.loads((folder / _RECIPE).read_text(encoding="utf-8"))["kind"] in _KINDS
    except (OSError, ValueError, KeyError, TypeError):
        return False


def save_composition(
    policy: Loaded,
    path: str | Path,
    *,
    save_member: Callable[[DenoisingPolicy, Path], Any],
) -> Path:
    """Write a composition with all its members, atomically.

    Args:
        policy: the composition, or the proposal with the policy that goes on.
        path: the folder to create or replace.
        save_member: writes one member's checkpoint.

    Returns:
        The folder.

    Raises:
        UsageError: when the operator holds a function, or a member was never saved itself.
    """
    critic: Critic | None = None
    if isinstance(policy, ProposalPolicy):
        policies = [policy.proposal, policy.policy]
        recipe: dict[str, Any] = {"kind": "proposal", "level": policy.level}
    elif isinstance(policy, SelectedPolicy):
        policies, critic = [policy.policy], policy.critic
        recipe = {
            "kind": "selection",
            "n_candidates": policy.n_candidates,
            "temperature": policy.temperature,
        }
    else:
        policies = [member.policy for member in policy.members]
        recipe = _recipe_of(policy)
        if isinstance(policy.operator, ValueGuidance):
            critic = policy.operator.critic
    target = Path(path)
    with publish_folder(target) as stage:
        if critic is not None:
            save_critic(critic, stage / CRITIC_FOLDER)
        for i, member in enumerate(policies):
            save_member(member, stage / _folder(i))
        write_json(stage / _RECIPE, {"schema_version": SCHEMA_VERSION, **recipe})
    return target


def _recipe_of(policy: ComposedPolicy) -> dict[str, Any]:
    return {
        "kind": "composition",
        "operator": _operator_of(policy),
        "sampler": None if policy.given_sampler is None else config_of(policy.given_sampler),
        "corrector": policy.corrector_name,
        "corrector_options": config_of(policy.corrector_options),
        "n_particles": policy.n_particles,
        "reference": policy.reference,
        "rows_per_block": policy.plain_rows_per_block,
        "members": [_member_entry(i, member) for i, member in enumerate(policy.members)],
    }


def _operator_of(policy: ComposedPolicy) -> Any:
    """Return the operator in plain containers; a critic is in a folder of its own."""
    operator = policy.operator
    if not isinstance(operator, ValueGuidance):
        return config_of(operator)
    target = f"{ValueGuidance.__module__}.{ValueGuidance.__qualname__}"
    options = config_of(operator.options)
    return {"_target_": target, "scale": operator.scale, "options": options}


def _folder(number: int) -> str:
    return f"members/{number}"


def load_composition(folder: Path, *, load_member: Callable[[Path], DenoisingPolicy]) -> Loaded:
    """Load a composition, a proposal and the policy that goes on, or a choice of a critic.

    Args:
        folder: the checkpoint.
        load_member: loads one member's checkpoint.

    Raises:
        CheckpointError: when it is damaged, of a newer schema, or does not build.
    """
    content = read_json_card(folder / _RECIPE, newest=SCHEMA_VERSION)
    try:
        if content["kind"] == "proposal":
            proposal, policy = (load_member(folder / _folder(i)) for i in range(2))
            return ProposalPolicy(proposal, policy, level=float(content["level"])).eval()
        if content["kind"] == "selection":
            return SelectedPolicy(
                load_member(folder / _folder(0)),
                load_critic(folder / CRITIC_FOLDER),
                n_candidates=int(content["n_candidates"]),
                temperature=float(content["temperature"]),
            ).eval()
        own: dict[str, Any] = {}
        if (folder / CRITIC_FOLDER).is_dir():
            own["critic"] = load_critic(folder / CRITIC_FOLDER)
        members = [
            MemberOf(
                policy=load_member(folder / str(entry["folder"])),
                dims=entry["dims"],
                fixed_obs=_tensors(entry["fixed_obs"]),
            )
            for entry in content["members"]
        ]
        composed = ComposedPolicy(
            members,
            build(content["operator"], **own),
            sampler=build(content["sampler"]),
            corrector=content["corrector"],
            corrector_options=content["corrector_options"],
            n_particles=content["n_particles"],
            reference=int(content["reference"]),
            rows_per_block=int(content["rows_per_block"]),
        )
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{folder}: its composition does not build: {error}") from error
    return composed.eval()


def _member_entry(number: int, member: MemberOf) -> dict[str, Any]:
    fixed = member.fixed_obs
    return {
        "folder": _folder(number),
        "dims": None if member.dims is None else list(member.dims),
        # NaN stands for an absent observation, and JSON has none.
        "fixed_obs": None
        if fixed is None
        else {
            key: [None if v != v else v for v in value.flatten().tolist()]
            for key, value in fixed.items()
        },
    }


def _tensors(fixed: Mapping[str, list[float | None]] | None) -> dict[str, torch.Tensor] | None:
    if fixed is None:
        return None
    return {
        key: torch.tensor([torch.nan if v is None else v for v in values])
        for key, values in fixed.items()
    }
