"""Policies: stateless maps from observations to chunks of actions, and their checkpoints."""

from genpolicy.policies.acting import ActionQueue, Actor
from genpolicy.policies.base import Policy
from genpolicy.policies.checkpoint import PolicyCard, load_policy, read_card, save_policy
from genpolicy.policies.composed import ComposedPolicy, MemberOf
from genpolicy.policies.critic import Critic, build_critic
from genpolicy.policies.critic_checkpoint import CriticCard, load_critic, save_critic
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.density import log_density, scalar_log_density
from genpolicy.policies.export import Exported, draws_of, export_policy, load_exported
from genpolicy.policies.generative import GenerativePolicy, build_policy
from genpolicy.policies.selection import SelectedPolicy

__all__ = [
    "ActionQueue",
    "Actor",
    "ComposedPolicy",
    "Critic",
    "CriticCard",
    "DenoisingPolicy",
    "Exported",
    "GenerativePolicy",
    "MemberOf",
    "Policy",
    "PolicyCard",
    "SelectedPolicy",
    "build_critic",
    "build_policy",
    "draws_of",
    "export_policy",
    "load_critic",
    "load_exported",
    "load_policy",
    "log_density",
    "read_card",
    "save_critic",
    "save_policy",
    "scalar_log_density",
]
