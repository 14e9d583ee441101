"""The U-Net against its recipe written out with torch's functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genpolicy.networks import ConditionalUnet1D

DIMS = {"action_dim": 3, "horizon": 8, "n_obs_steps": 2, "obs_dim": 5}


class Recipe:
    """Diffusion Policy's U-Net as functions of a state dict; channels before time."""

    def __init__(self, state: dict[str, Tensor], *, n_groups: int, film_scale: bool) -> None:
        self.state, self.n_groups, self.film_scale = state, n_groups, film_scale

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def conv(self, name: str, h: Tensor) -> Tensor:
        weight, bias = self.of(f"{name}.0")
        h = F.conv1d(h, weight, bias, padding=weight.shape[-1] // 2)
        return F.mish(F.group_norm(h, self.n_groups, *self.of(f"{name}.1")))

    def block(self, name: str, h: Tensor, cond: Tensor) -> Tensor:
        out = self.conv(f"{name}.first", h)
        film = F.linear(F.mish(cond), *self.of(f"{name}.film"))[..., None]
        n = out.shape[1]
        out = film[:, :n] * out + film[:, n:] if self.film_scale else out + film
        out = self.conv(f"{name}.second", out)
        fits = f"{name}.skip.weight" not in self.state
        return out + (h if fits else F.conv1d(h, *self.of(f"{name}.skip")))

    def __call__(self, x: Tensor, features: Tensor, obs: Tensor, n_levels: int) -> Tensor:
        hidden = F.mish(F.linear(features, *self.of("time.first.0")))
        cond = torch.cat([F.linear(hidden, *self.of("time.first.2")), obs.flatten(1)], dim=1)
        h, skips = x.transpose(1, 2), []
        for i in range(n_levels):
            h = self.block(f"down.{i}.1", self.block(f"down.{i}.0", h, cond), cond)
            skips.append(h)
            if i < n_levels - 1:
                h = F.conv1d(h, *self.of(f"down.{i}.2"), stride=2, padding=1)
        h = self.block("middle.1", self.block("middle.0", h, cond), cond)
        for i in range(n_levels - 1):
            h = torch.cat([h, skips[n_levels - 1 - i]], dim=1)
            h = self.block(f"up.{i}.1", self.block(f"up.{i}.0", h, cond), cond)
            h = F.conv_transpose1d(h, *self.of(f"up.{i}.2"), stride=2, padding=1)
        return F.conv1d(self.conv("out.0", h), *self.of("out.1")).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize("film_scale", [True, False])
@pytest.mark.parametrize("dims", [(8,), (8, 16), (8, 16, 24)])
def test_unet_is_its_recipe(dims, film_scale):
    settings = {"dims": dims, "time_dim": 8, "n_groups": 4, "film_scale": film_scale}
    network = ConditionalUnet1D(**DIMS, **settings).double()
    for parameter in network.parameters():  # norms start at 1 and 0, which would hide their use
        parameter += 0.1 * torch.randn_like(parameter)
    x, obs = torch.randn(4, 8, 3).double(), torch.randn(4, 2, 5).double()
    time = torch.rand(4).double() * 100.0
    recipe = Recipe(dict(network.state_dict()), n_groups=4, film_scale=film_scale)
    expected = recipe(x, network.time.features(time), obs, len(dims))
    torch.testing.assert_close(network(x, time, obs), expected, atol=1e-10, rtol=1e-8)
