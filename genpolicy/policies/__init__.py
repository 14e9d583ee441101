"""Policies: stateless maps from observations to chunks of actions, and their checkpoints."""

from genpolicy.policies.base import Policy
from genpolicy.policies.checkpoint import PolicyCard, load_policy, read_card, save_policy
from genpolicy.policies.composed import ComposedPolicy, MemberOf
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.export import Exported, draws_of, export_policy, load_exported
from genpolicy.policies.generative import GenerativePolicy, build_policy

__all__ = [
    "ComposedPolicy",
    "DenoisingPolicy",
    "Exported",
    "GenerativePolicy",
    "MemberOf",
    "Policy",
    "PolicyCard",
    "build_policy",
    "draws_of",
    "export_policy",
    "load_exported",
    "load_policy",
    "read_card",
    "save_policy",
]
