"""MOPO: a critic and a policy trained on rollouts of models that are punished for uncertainty.

::

    from the observations of a batch, with the policy's actions and noise of the behaviour's size
    (1)  s', r, end ~ ensemble(s, a)                      n_model_steps in a row
    (2)  r - penalty max_k |std_k(s, a)|                  the reward of an imagined transition
    (3)  batch = real_fraction of the data's transitions, the rest imagined ones

and on (3) the updates of TD3 (those of ``rebrac`` without its penalties), with
``|pi(s) - clip(pi(s))|^2`` added for the policy: outside of the range of actions, where they are
clipped in the place of TD3's tanh, values have no gradient that leads back. The ensemble is that of
a run of ``algorithm=anchor_seeking`` and is not trained further; the run also has COCOA's anchors.

Differences from the paper: TD3 in the place of SAC; rollouts are made from the weights of the step,
and not kept; whether an imagined step ends the task is predicted, where the paper has a rule per
task; every rollout is as long, and of a row that has ended the transitions after it weigh nothing.

Source: arXiv 2005.13239.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genpolicy.algorithms.anchor_seeking import anchor_network
from genpolicy.algorithms.common import OptimizerSettings
from genpolicy.algorithms.critics import check_transitions
from genpolicy.algorithms.rebrac import ReBRAC
from genpolicy.data.batches import join_batches, rows_of_batch
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.losses import draw_noise
from genpolicy.networks import AnchorNetwork, LowDimEncoder
from genpolicy.policies import Critic, GenerativePolicy, load_policy
from genpolicy.seeding import generator_from

__all__ = ["MOPO"]


class MOPO(ReBRAC):
    """Trains a deterministic policy and its critics on real and imagined transitions.

    Args:
        policy: a one-step policy from noise of size 0, of single steps.
        critic: twin critics.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        dynamics_from: run of ``algorithm=anchor_seeking`` on the same data.
        discount: of the data's transitions, in [0, 1].
        n_model_steps: in (1), at least 1.
        penalty: in (2), at least 0.
        real_fraction: in (3), above 0, up to 1.
        explore_std: noise of imagined actions, in normalized units, at least 0.
        q_weight: of the normalized value in the policy's loss, positive.
        policy_delay: steps of the critic per step of the policy, at least 1.
        noise_std: of the target's actions, at least 0.
        noise_limit: of that noise, positive.
        target_rate: part that enters the averages of policy and critic at every step, in (0, 1].

    Raises:
        UsageError: for values out of range, or another policy.
        CheckpointError: when the models have other statistics.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        critic: Critic,
        optimizer: OptimizerSettings,
        seed: int,
        dynamics_from: str,
        discount: float,
        n_model_steps: int = 5,
        penalty: float = 1.0,
        real_fraction: float = 0.05,
        explore_std: float = 0.1,
        q_weight: float = 1.0,
        policy_delay: int = 2,
        noise_std: float = 0.2,
        noise_limit: float = 0.5,
        target_rate: float = 0.005,
    ) -> None:
        super().__init__(
            policy=policy,
            critic=critic,
            optimizer=optimizer,
            seed=seed,
            q_weight=q_weight,
            actor_penalty=0.0,
            critic_penalty=0.0,
            policy_delay=policy_delay,
            noise_std=noise_std,
            noise_limit=noise_limit,
            target_rate=target_rate,
        )
        if n_model_steps < 1 or not 0.0 < real_fraction <= 1.0 or min(penalty, explore_std) < 0.0:
            raise UsageError(
                f"MOPO: n_model_steps is {n_model_steps}, real_fraction {real_fraction}, penalty "
                f"{penalty} and explore_std {explore_std}, expected at least 1, above 0 up to 1, "
                "and at least 0"
            )
        self.discount, self.n_model_steps = discount, n_model_steps
        self.penalty, self.real_fraction, self.explore_std = penalty, real_fraction, explore_std
        source = load_policy(dynamics_from)
        network = anchor_network(source, who="MOPO")
        assert isinstance(source, GenerativePolicy)
        if source.normalizer.to_json() != policy.normalizer.to_json() or source.spec != policy.spec:
            raise CheckpointError(
                f"MOPO: the models of {dynamics_from} were trained for {source.spec} with other "
                "statistics than this run's data; train both on the same data, seed and windows"
            )
        network.requires_grad_(False)
        self._models = [(source, network)]  # in a list: neither trained nor part of the state

    def models(self) -> tuple[GenerativePolicy, AnchorNetwork]:
        """Return the policy that the ensemble belongs to, and the ensemble."""
        source, network = self._models[0]
        return source.to(self.device), network

    @torch.no_grad()
    def imagined(self, batch: Any, generator: torch.Generator) -> dict[str, Any]:
        """Return transitions (1) with rewards (2) from the observations of a batch.

        Args:
            batch: transitions of single steps.
            generator: of actions and outcomes.

        Returns:
            Transitions with the batch's entries, ``n_model_steps`` for each row, of which those
            after an end are left out.
        """
        source, network = self.models()
        assert isinstance(source.encoder, LowDimEncoder)  # nothing learned, see AnchorSeeking
        keys = source.encoder.keys
        seen = dict(batch["obs"])
        steps: list[dict[str, Any]] = []
        alive = torch.ones(len(batch["reward"]), dtype=torch.bool, device=self.device)
        for _ in range(self.n_model_steps):
            chunk = self._clip(self.actions(self.denoiser, self.policy.encode(seen)))
            chunk = self._clip(chunk + self.explore_std * draw_noise(chunk, generator))
            features = source.encode(seen)
            assert features is not None
            found = network.forward_model.imagine(features[:, -1], chunk[:, 0], generator)
            over = (
                torch.rand(len(found.ends), generator=generator, device=generator.device).to(
                    self.device
                )
                < found.ends
            )
            after = {**seen, **self._observed(found.obs, keys)}
            steps.append(
                {
                    "obs": seen,
                    "action": self.policy.normalizer.denormalize_action(chunk),
                    "mask": torch.ones(chunk.shape[:2], dtype=torch.bool, device=self.device),
                    "reward": found.reward - self.penalty * found.spread,
                    "bootstrap": self.discount * (~over).float(),
                    "next_obs": after,
                    "alive": alive,
                }
            )
            seen, alive = after, alive & ~over
        joined = join_batches(steps)
        kept = joined.pop("alive")
        return rows_of_batch(joined, kept.nonzero().flatten())

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step of TD3 on real and imagined transitions (3)."""
        check_transitions(batch, who="MOPO")
        generator = generator_from(
            self.seed, "imagined", self.global_step, self.global_rank, device=self.device
        )
        dreamt = self.imagined(batch, generator)
        n = len(batch["reward"])
        n_real = max(1, round(self.real_fraction * n))
        real = rows_of_batch(
            {key: batch[key] for key in dreamt}, torch.arange(n_real, device=self.device)
        )
        order = torch.randperm(len(dreamt["reward"]), generator=generator, device=generator.device)[
            : n - n_real
        ]
        mixed = join_batches([real, rows_of_batch(dreamt, order)])
        out = super().training_step(mixed, batch_idx)
        if self.global_step % self.policy_delay == 0:
            chunk = self.actions(self.denoiser, self.policy.encode(mixed["obs"]))
            out["loss"] = out["loss"] + (chunk - self._clip(chunk)).square().mean()
        out["metrics"]["imagined_reward"] = dreamt["reward"].mean()
        return out

    def _observed(self, features: Tensor, keys: tuple[str, ...]) -> dict[str, Tensor]:
        """Return features as observations of one step in physical units."""
        shapes = self.policy.spec.obs_shapes
        sizes = [torch.Size(shapes[key]).numel() for key in keys]
        parts = features.split(sizes, dim=-1)
        return self.policy.normalizer.denormalize_obs(
            {
                key: part.view(len(part), 1, *shapes[key])
                for key, part in zip(keys, parts, strict=True)
            }
        )
