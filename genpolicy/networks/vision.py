"""Image encoder: crops, a residual network, spatial softmax.

Images come as floats in [-1, 1] with axes ``height width channel``. No layer mixes rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError, nearest
from genpolicy.networks.checks import check_sizes
from genpolicy.networks.encoders import choose_keys
from genpolicy.networks.resnet import ResNet18, SmallResNet
from genpolicy.shapes import Obs

__all__ = ["Crop", "ImageEncoder", "SpatialSoftmax"]

_BACKBONES = {"resnet18": ResNet18, "small": SmallResNet}


class ImageEncoder(nn.Module):
    """A residual network with spatial softmax per camera; low-dimensional observations as they are.

    Keys with three axes are cameras. The features are those of the cameras, then the flattened
    low-dimensional observations, each in the order of the keys' names.

    Args:
        obs_shapes: shape of one observation by key; images are ``(height, width, channel)``.
        keys: keys to use; None uses all.
        crop: side, or height and width, in pixels of the window that the networks see, see
            ``Crop``; None shows all of the image. Diffusion Policy uses 76 of 84 and 84 of 96.
        n_keypoints: channels of the spatial softmax, each giving one point of the image.
        feature_dim: features of one camera.
        backbone: ``"resnet18"``, or ``"small"``, see ``SmallResNet``, which a CPU can train.

    Raises:
        UsageError: for an unknown key or backbone, observations without a camera, an image of fewer
            than 32 pixels a side after the crop, or a crop larger than the image.

    Source: arXiv 2303.04137, section 3.2, and arXiv 2108.03298, appendix D, for the sizes.
    """

    def __init__(
        self,
        *,
        obs_shapes: Mapping[str, tuple[int, ...]],
        keys: Sequence[str] | None = None,
        crop: int | Sequence[int] | None = None,
        n_keypoints: int = 32,
        feature_dim: int = 64,
        backbone: str = "resnet18",
    ) -> None:
        super().__init__()
        check_sizes("ImageEncoder", n_keypoints=n_keypoints, feature_dim=feature_dim)
        if backbone not in _BACKBONES:
            raise UsageError(
                f"ImageEncoder: backbone is {backbone!r}; {nearest(backbone, _BACKBONES)}"
            )
        chosen = choose_keys("ImageEncoder", obs_shapes, keys)
        self.image_keys = tuple(key for key in chosen if len(obs_shapes[key]) == 3)
        self.low_dim_keys = tuple(key for key in chosen if len(obs_shapes[key]) != 3)
        if not self.image_keys:
            raise UsageError(
                f"ImageEncoder: none of {list(chosen)} is an image (height, width, channel); use "
                "LowDimEncoder"
            )
        # Keys may hold characters that module names may not, so cameras go by their position.
        self.cameras = nn.ModuleList(
            [
                _Camera(key, obs_shapes[key], crop, n_keypoints, feature_dim, backbone)
                for key in self.image_keys
            ]
        )
        low_dim = sum(torch.Size(obs_shapes[key]).numel() for key in self.low_dim_keys)
        self.obs_dim = len(self.image_keys) * feature_dim + low_dim

    def forward(self, obs: Obs) -> Float[Tensor, "batch n_obs_steps obs_dim"]:
        """Return the features of each observation step."""
        parts: list[Tensor] = []
        for key, camera in zip(self.image_keys, self.cameras, strict=True):
            images = rearrange(obs[key], "b n h w c -> (b n) h w c")
            seen = camera(images)  # (batch * n_obs_steps, feature_dim)
            parts.append(rearrange(seen, "(b n) f -> b n f", n=obs[key].shape[1]))
        for key in self.low_dim_keys:
            parts.append(obs[key].flatten(2).to(parts[0].dtype))  # (batch, n_obs_steps, size)
        return torch.cat(parts, dim=-1)  # (batch, n_obs_steps, obs_dim)


class _Camera(nn.Module):
    """Crop, residual network, one channel per keypoint, spatial softmax, linear."""

    def __init__(
        self,
        key: str,
        shape: tuple[int, ...],
        crop: int | Sequence[int] | None,
        n_keypoints: int,
        feature_dim: int,
        backbone: str,
    ) -> None:
        super().__init__()
        self.crop = nn.Identity() if crop is None else Crop(size=crop)
        height, width = shape[:2] if crop is None else Crop(size=crop).size
        if height > shape[0] or width > shape[1] or min(height, width) < 32:
            raise UsageError(
                f"ImageEncoder: {key!r} is {shape[0]} x {shape[1]} pixels and crop is {crop}; "
                "expected a crop inside the image, of at least 32 pixels a side"
            )
        network = _BACKBONES[backbone]
        self.resnet = network(n_channels=shape[2])
        self.keypoints = nn.Conv2d(network.out_channels, n_keypoints, 1)
        self.softmax = SpatialSoftmax()
        self.out = nn.Linear(2 * n_keypoints, feature_dim)

    def forward(self, images: Float[Tensor, "n h w c"]) -> Float[Tensor, "n feature_dim"]:
        window = rearrange(self.crop(images), "n h w c -> n c h w")  # channels-last in memory
        maps = self.keypoints(self.resnet(window))  # (n, n_keypoints, h2, w2)
        points = self.softmax(maps)  # (n, n_keypoints, 2)
        return self.out(points.flatten(1))  # (n, feature_dim)


class Crop(nn.Module):
    """A window of each image: at a random place in training, in the centre otherwise.

    The places of a batch, one per image and so one per observation step, are drawn from torch's
    default generator of the CPU whatever the device of the images, and only in training mode; a
    trainer that seeds it before each step makes the crops a function of that seed.

    Args:
        size: side, or height and width, of the window in pixels.

    Raises:
        UsageError: for a size that is not positive.
    """

    def __init__(self, *, size: int | Sequence[int]) -> None:
        super().__init__()
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2:
            raise UsageError(f"Crop: size is {size}, expected a side or height and width")
        check_sizes("Crop", height=pair[0], width=pair[1])
        self.size: tuple[int, int] = (pair[0], pair[1])

    def forward(self, images: Float[Tensor, "n h w c"]) -> Float[Tensor, "n height width c"]:
        """Return one window per image.

        Raises:
            UsageError: for images smaller than the window.
        """
        n, room_y, room_x = (
            images.shape[0],
            images.shape[1] - self.size[0],
            images.shape[2] - self.size[1],
        )
        if room_y < 0 or room_x < 0:
            raise UsageError(
                f"Crop: images are {images.shape[1]} x {images.shape[2]} pixels, smaller than the "
                f"window {self.size[0]} x {self.size[1]}"
            )
        if not self.training:
            top, left = room_y // 2, room_x // 2
            return images[:, top : top + self.size[0], left : left + self.size[1]]
        corner_y = torch.randint(room_y + 1, (n, 1, 1)).to(images.device)
        corner_x = torch.randint(room_x + 1, (n, 1, 1)).to(images.device)
        rows = (
            corner_y + torch.arange(self.size[0], device=images.device)[:, None]
        )  # (n, height, 1)
        columns = corner_x + torch.arange(self.size[1], device=images.device)  # (n, 1, width)
        each = torch.arange(n, device=images.device)[:, None, None]  # (n, 1, 1)
        return images[each, rows, columns]  # (n, height, width, c)


class SpatialSoftmax(nn.Module):
    """The expected position of each channel under the softmax of its map.

    ``E[(x, y)]`` with x to the right and y downwards, -1 and 1 at the centres of the border pixels;
    a side of one pixel is at 0.

    Args:
        temperature: divides the maps, positive.

    Source: arXiv 1504.00702, section 5.2.
    """

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0.0:
            raise UsageError(f"SpatialSoftmax: temperature is {temperature}, expected > 0")
        self.temperature = temperature

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 2"]:
        """Return x and y of each channel, in float32, or float64 for such maps."""
        precise = maps.to(torch.promote_types(maps.dtype, torch.float32)).flatten(2)
        weights = F.softmax(precise / self.temperature, dim=-1)  # (n, c, h * w)
        weights = weights.unflatten(-1, maps.shape[-2:])  # (n, c, h, w)
        x = (weights.sum(dim=-2) * _coordinates(maps.shape[-1], maps.device)).sum(dim=-1)  # (n, c)
        y = (weights.sum(dim=-1) * _coordinates(maps.shape[-2], maps.device)).sum(dim=-1)  # (n, c)
        return torch.stack([x, y], dim=-1)  # (n, c, 2)


def _coordinates(n: int, device: torch.device) -> Float[Tensor, " n"]:
    return torch.linspace(-1.0, 1.0, n, device=device) if n > 1 else torch.zeros(1, device=device)
