"""EDA: align a pretrained behaviour policy with a critic, as language models are with preferences.

The behaviour is a diffusion policy whose noise prediction is the gradient of a scalar network
(``network=energy denoiser=noise``, trained by ``algorithm=diffusion_bc`` on all data), so that
f = g/sigma is its log-density up to a constant. The policy starts as its copy. For K samples a_k of
the behaviour at one observation, noised to one level with noise of their own::

    (1)  D_k  = beta (f_pi(x_k, t) - f_mu(x_k, t))
    (2)  loss = -sum_k softmax_k(gain Q(s, a_k)) log softmax_k(D_k)

At t -> 0 and for many samples the minimum is ``pi ~ mu exp(gain Q/beta)``. With K = 2 and labels of
the better one (``labels="best"``) it is the loss of direct preference optimization. Constants of
(s, t) cancel within a row, which is why its K actions share a level.

Only (2) needs values: ``data.train_fraction=0.01`` aligns on one episode in a hundred, with the
statistics, and a behaviour, of all.

Difference from the paper: samples are drawn afresh at every step, not once for every state.

Source: arXiv 2407.09024 (equations 8, 12 and 13) and its public code.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from genpolicy.algorithms.common import (
    OptimizerSettings,
    configure_adamw,
    denoiser_of,
    draw_chunks,
    step_generator,
)
from genpolicy.algorithms.critics import check_selection
from genpolicy.algorithms.frozen import Teacher
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import TimeSampler, alignment_loss, draw_noise
from genpolicy.paths import expand_t
from genpolicy.policies import Critic, GenerativePolicy, load_critic
from genpolicy.policies.density import energy_of

__all__ = ["EDA"]


class EDA(LightningModule):
    """Aligns a scalar-energy diffusion policy with the values of a trained critic.

    Args:
        policy: the policy to train, of the behaviour's network and path.
        behavior: checkpoint of the pretrained behaviour, on the same data and windows.
        critic_from: checkpoint of a trained critic, for example a run of ``algorithm=iql``.
        optimizer: AdamW settings.
        seed: names the noise of every step.
        times: distribution of levels.
        beta: in (1), positive: larger stays nearer to the behaviour.
        gain: factor of the values in (2), positive (3 in the paper's code).
        n_actions: K, at least 2.
        labels: ``"soft"`` is (2), ``"best"`` puts all weight on the best action.
        n_candidates: chunks of which the critic chooses one to act.
        temperature: of that choice; 0 takes the best.

    Raises:
        UsageError: for values out of range, or a network that is no scalar's gradient.
        CheckpointError: when the behaviour has other observations, windows or statistics.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        behavior: str,
        critic_from: str,
        optimizer: OptimizerSettings,
        seed: int,
        times: TimeSampler,
        beta: float = 1.0,
        gain: float = 1.0,
        n_actions: int = 16,
        labels: Literal["soft", "best"] = "soft",
        n_candidates: int = 4,
        temperature: float = 0.0,
    ) -> None:
        super().__init__()
        check_selection("EDA", n_candidates, temperature)
        if not beta > 0.0 or not gain > 0.0 or n_actions < 2 or labels not in ("soft", "best"):
            raise UsageError(
                f"EDA: beta is {beta}, gain {gain}, n_actions {n_actions} and labels {labels!r}, "
                "expected above 0, above 0, at least 2, and 'soft' or 'best'"
            )
        denoiser_of(policy, ParameterizedDenoiser, who="EDA")
        self._teacher = Teacher(behavior, student=policy, who="EDA")
        self._teacher.start(policy)
        self._judge = [load_critic(critic_from)]  # in a list: neither trained nor part of the state
        self.policy = policy
        self.optimizer_settings, self.seed, self.times = optimizer, seed, times
        self.beta, self.gain, self.n_actions = beta, gain, n_actions
        self.labels: Literal["soft", "best"] = labels
        self.n_candidates, self.temperature = n_candidates, temperature

    @property
    def critic(self) -> Critic:
        """The critic that labels actions; it is saved with the policy, for acting."""
        return self._judge[0].to(self.device)

    @property
    def denoiser(self) -> ParameterizedDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, ParameterizedDenoiser, who="EDA")

    @property
    def behavior(self) -> GenerativePolicy:
        """The pretrained behaviour."""
        found = self._teacher.policy.to(self.device)
        assert isinstance(found, GenerativePolicy)
        return found

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the alignment loss (2) of a batch, and named figures."""
        n, policy, behavior = self.n_actions, self.policy, self.behavior
        crowd = {key: value.repeat_interleave(n, 0) for key, value in batch["obs"].items()}
        with torch.no_grad():
            cond = behavior.encode(crowd)
            clean = draw_chunks(behavior, behavior.denoiser, cond, generator)
            actions = policy.normalizer.denormalize_action(clean)
            values = self.critic(actions, crowd).view(-1, n)
            path = self.denoiser.path
            t = self.times.sample(len(values), path, generator, clean.device, clean.dtype)
            t = t.repeat_interleave(n, 0)
            alpha, sigma = path.alpha_sigma(t)
            noise = draw_noise(clean, generator)
            x_t = expand_t(alpha, clean) * clean + expand_t(sigma, clean) * noise
            base = denoiser_of(behavior, ParameterizedDenoiser, who="EDA's behaviour")
            of_behavior = energy_of(base, x_t, t, cond)
        of_policy = energy_of(self.denoiser, x_t, t, policy.encode(crowd))
        tilt = self.beta * (of_policy - of_behavior).view(-1, n)
        loss = alignment_loss(tilt, self.gain * values, labels=self.labels)
        tilted = (tilt.detach().softmax(1) * values).sum(1).mean() - values.mean()
        return loss, {"loss": loss.detach(), "value_gained": tilted, "q": values.mean()}

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step of gradient descent on ``loss``."""
        loss, metrics = self.loss(batch, step_generator(self, self.seed))
        return {"loss": loss, "metrics": metrics}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self.policy, self.optimizer_settings)
