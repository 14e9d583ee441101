"""What a run takes over from another one: statistics, all weights, or the anchors of COCOA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from genpolicy.algorithms.anchor_seeking import anchor_network
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.data.normalizer import Normalizer
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.networks import AnchorEncoder, LowDimEncoder
from genpolicy.policies import Critic, GenerativePolicy, load_critic, load_policy, read_card
from genpolicy.training.run_folder import RunFolder
from genpolicy.training.state_io import FolderCheckpointIO

__all__ = ["continue_from", "take_anchors", "take_returns", "take_statistics"]


def take_statistics(data: WindowDataModule, run: str, *, who: str) -> None:
    """Give the data of a run the normalizer of the run that it builds on.

    Args:
        data: of the new run.
        run: a run or a checkpoint.
        who: the setting that named it, for messages.

    Raises:
        CheckpointError: when ``run`` is neither.
        UsageError: when observations or actions differ.
    """
    card = read_card(run)
    data.setup()
    own, theirs = data.spec, card.spec
    if (own.obs_shapes, own.action_dim) != (theirs.obs_shapes, theirs.action_dim):
        raise UsageError(
            f"{who}={run} was trained for {theirs}, this run is for {own}; give both the same task"
        )
    data.normalizer = Normalizer.from_json(card.normalizer)


def take_returns(data: WindowDataModule, run: str) -> None:
    """Check that a run's critic means the same by a value as this run's data.

    Raises:
        UsageError: when windows, discount or rewards differ.
    """
    critic = load_critic(run).card
    assert critic is not None
    if critic.spec != data.spec:
        raise UsageError(
            f"online.from={run} was trained for {critic.spec}, this run is for {data.spec}; give "
            "both the same task and windows"
        )
    own = vars(data.reward_transform)
    if dict(critic.reward) != dict(own) or critic.discount != data.discount:
        raise UsageError(
            f"online.from={run} has discount {critic.discount} and rewards {dict(critic.reward)}, "
            f"this run {data.discount} and {own}; use the same data, data.reward, data.discount, "
            "and for rewards fitted to the data the same seed"
        )


def continue_from(
    algorithm: LightningModule, run: str, *, policy: Mapping[str, Any], last_step: int
) -> None:
    """Load all weights of another run's newest training state: policy, critic, averages.

    The optimizer and the counter of steps start anew.

    Args:
        algorithm: built with the same settings.
        run: a run folder.
        policy: configuration of the new run's policy.
        last_step: of the new run.

    Raises:
        CheckpointError: when there is no state, or it is of another algorithm or other sizes.
        UsageError: when the policy is of another kind, or a curriculum would start over.
    """
    state = RunFolder(run).latest_state()
    if state is None:
        raise CheckpointError(
            f"online.from={run} holds no training state; give the folder of a run, not of a policy"
        )
    theirs = read_card(run).policy
    for part in ("path", "denoiser", "encoder", "network"):
        if theirs[part] != policy[part]:
            raise UsageError(
                f"online.from={run} has {part} {theirs[part]}, this run {policy[part]}; give both "
                "the same settings"
            )
    content = FolderCheckpointIO().load_checkpoint(state)
    weights = content.get("current_model_state", content["state_dict"])
    try:
        algorithm.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"online.from={run} does not fit {type(algorithm).__name__}: {error}; continue it with "
            "the algorithm and the critic that it was trained with"
        ) from error
    curriculum = getattr(getattr(algorithm, "settings", None), "curriculum", None)
    if curriculum is not None and curriculum.n_levels(1) < curriculum.n_levels(last_step):
        raise UsageError(
            "online.from: the curriculum of noise levels would start over, through levels so few "
            "that the policy collapses; set algorithm.settings.curriculum.total_steps=1"
        )


def take_anchors(run: str, policy: GenerativePolicy, critic: Critic | None) -> None:
    """Give the encoders of a policy and its critic the anchor seeker of another run.

    Args:
        run: of ``algorithm=anchor_seeking``.
        policy: newly built.
        critic: newly built, or None.

    Raises:
        UsageError: when ``run`` has no seeker, sees other observations, or no encoder takes it.
        CheckpointError: when sizes differ.
    """
    source = load_policy(run)
    network = anchor_network(source, who="cocoa.anchors")
    assert isinstance(source, GenerativePolicy)
    assert isinstance(source.encoder, LowDimEncoder)  # nothing learned, see AnchorSeeking
    for owner, encoder in (("policy", policy.encoder), ("critic", critic and critic.encoder)):
        if encoder is None:
            continue
        if not isinstance(encoder, AnchorEncoder):
            raise UsageError(
                f"cocoa: the {owner}'s encoder is a {type(encoder).__name__}, which has no "
                "anchors; use encoder=transductive, and critic=transductive or transductive_iql"
            )
        if encoder.flat.keys != source.encoder.keys:
            raise UsageError(
                f"cocoa: the {owner} sees {list(encoder.flat.keys)}, the anchor seeker "
                f"{list(source.encoder.keys)}; give both the same policy.encoder.keys"
            )
        encoder.load_anchors(network)
