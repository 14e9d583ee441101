"""Crops, spatial softmax, ResNet-18 and the encoder made of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genpolicy.errors import UsageError
from genpolicy.networks import Crop, ImageEncoder, ResNet18, SpatialSoftmax

SHAPES = {"left": (40, 44, 3), "right": (36, 36, 1), "agent": (2,), "grip": (1, 1)}


def observations(batch: int = 2, n_obs_steps: int = 2) -> dict[str, torch.Tensor]:
    return {key: torch.rand(batch, n_obs_steps, *shape) * 2 - 1 for key, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(obs_shapes=SHAPES, crop=(32, 34), n_keypoints=4, feature_dim=5)


def pixel_coordinates(n: int, height: int, width: int) -> torch.Tensor:
    """Return images ``(n, height, width, 2)`` whose channels are a pixel's row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns], dim=-1).float().expand(n, -1, -1, -1)


def test_training_crops_are_windows_at_every_place():
    out = Crop(size=(5, 3)).train()(pixel_coordinates(500, 7, 6))
    assert out.shape == (500, 5, 3, 2)
    corners = out[:, 0, 0]
    window = pixel_coordinates(1, 5, 3)
    assert torch.equal(out, corners[:, None, None] + window)
    found, counts = corners.unique(dim=0, return_counts=True)
    assert found.tolist() == [[row, column] for row in range(3) for column in range(4)]
    assert counts.min() > 500 / 12 / 2  # near uniform


def test_evaluation_crops_are_central_and_draw_nothing():
    crop = Crop(size=4).eval()
    state = torch.get_rng_state()
    out = crop(pixel_coordinates(2, 8, 9))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(out, pixel_coordinates(2, 8, 9)[:, 2:6, 2:6])


def test_training_crops_are_a_function_of_the_seed():
    crop, images = Crop(size=6).train(), pixel_coordinates(20, 16, 16)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(crop(images))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_a_crop_of_the_whole_image_is_the_image():
    images = pixel_coordinates(3, 6, 7)
    assert torch.equal(Crop(size=(6, 7)).train()(images), images)


@pytest.mark.parametrize("size", [9, (4, 9), (9, 4)])
def test_crops_larger_than_the_image_are_refused(size):
    with pytest.raises(UsageError, match="8 x 8 pixels, smaller"):
        Crop(size=size)(pixel_coordinates(1, 8, 8))


@pytest.mark.parametrize("size", [0, (3, -1), (1, 2, 3)])
def test_impossible_crops_are_refused(size):
    with pytest.raises(UsageError, match="Crop"):
        Crop(size=size)


def test_a_peak_gives_its_coordinates():
    maps = torch.full((1, 3, 5, 9), -1e4)
    maps[0, 0, 0, 8] = 1e4
    maps[0, 1, 2, 4] = 1e4
    maps[0, 2, 4, 2] = 1e4
    expected = torch.tensor([[[1.0, -1.0], [0.0, 0.0], [-0.5, 1.0]]])
    torch.testing.assert_close(SpatialSoftmax()(maps), expected)


def test_spatial_softmax_is_an_expectation():
    maps = torch.randn(4, 2, 3, 6, dtype=torch.float64)
    weights = torch.exp(maps / 0.7)
    weights /= weights.sum((2, 3), keepdim=True)
    x = torch.einsum("ncij,j->nc", weights, torch.linspace(-1, 1, 6, dtype=torch.float64))
    y = torch.einsum("ncij,i->nc", weights, torch.linspace(-1, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(
        SpatialSoftmax(temperature=0.7)(maps), torch.stack([x, y], dim=-1), atol=1e-6, rtol=1e-6
    )


def test_flat_maps_and_single_pixels_give_the_centre():
    for sides in ((4, 7), (1, 1), (1, 5)):
        assert SpatialSoftmax()(torch.zeros(1, 2, *sides)).abs().max() < 1e-6
    with pytest.raises(UsageError, match="temperature"):
        SpatialSoftmax(temperature=0.0)


def test_every_norm_has_groups_of_sixteen_channels(encoder):
    norms = [m for m in ResNet18().modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 1 + 8 * 2 + 3
    assert all(m.num_groups * 16 == m.num_channels for m in norms)
    assert not [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize(("side", "maps"), [(32, 1), (76, 3), (84, 3), (96, 3), (97, 4)])
def test_resnet_maps_are_a_thirty_second_of_the_image(side, maps):
    with torch.device("meta"):
        out = ResNet18(n_channels=3)(torch.empty(2, 3, side, side))
    assert out.shape == (2, 512, maps, maps)


def test_the_small_network_sees_an_eighth_of_the_image():
    shapes = {"image": (96, 90, 3), "agent": (2,)}
    encoder = ImageEncoder(obs_shapes=shapes, backbone="small", n_keypoints=4, feature_dim=5)
    camera = encoder.cameras[0]
    assert camera.resnet(torch.rand(1, 3, 96, 90)).shape == (1, 64, 12, 12)
    assert all(
        m.num_groups * 16 == m.num_channels
        for m in camera.resnet.modules()
        if isinstance(m, nn.GroupNorm)
    )
    assert encoder({k: torch.rand(2, 1, *s) for k, s in shapes.items()}).shape == (2, 1, 7)
    with pytest.raises(UsageError, match="did you mean 'small'"):
        ImageEncoder(obs_shapes=shapes, backbone="smal")


def test_features_of_cameras_then_low_dim(encoder):
    obs = observations()
    out = encoder.eval()(obs)
    assert encoder.obs_dim == 2 * 5 + 2 + 1
    assert out.shape == (2, 2, 13)
    assert torch.equal(out[..., 10:12], obs["agent"])
    assert torch.equal(out[..., 12:], obs["grip"].flatten(2))
    # Each camera has its own network, each time step its own features.
    other = {**obs, "left": obs["left"].clone()}
    other["left"][1, 0] *= -1
    changed = (encoder(other) - out).abs() > 1e-6
    assert changed[1, 0, :5].any()
    changed[1, 0, :5] = False
    assert not changed.any()


def test_rows_are_independent(encoder):
    obs = observations(batch=3)
    order = torch.tensor([2, 0, 1])
    permuted = encoder.eval()({key: value[order] for key, value in obs.items()})
    torch.testing.assert_close(permuted, encoder(obs)[order], atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_weight_and_training_crops(encoder):
    obs = observations()
    torch.manual_seed(4)
    first = encoder.train()(obs)
    torch.manual_seed(4)
    assert torch.equal(encoder(obs), first)
    assert not torch.equal(encoder(obs), first)
    first.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        # The softmax does not see a constant added to a map.
        if not name.endswith("keypoints.bias"):
            assert parameter.grad.abs().max() > 0, name
    encoder.zero_grad(set_to_none=True)


def test_bfloat16_autocast_is_close_to_float32(encoder):
    obs = observations()
    with torch.no_grad():
        exact = encoder.eval()(obs)
        with torch.autocast("cpu", torch.bfloat16):
            low = encoder(obs)
    assert (low.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize(
    ("shapes", "settings", "message"),
    [
        ({"agent": (2,)}, {}, "use LowDimEncoder"),
        (SHAPES, {"crop": 38}, "'right' is 36 x 36"),
        (SHAPES, {"crop": 31}, "at least 32"),
        ({"image": (20, 20, 3)}, {}, "at least 32"),
        (SHAPES, {"keys": ["rigth"]}, "did you mean 'right'"),
        (SHAPES, {"n_keypoints": 0}, "n_keypoints"),
    ],
)
def test_wrong_settings_are_refused(shapes, settings, message):
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        ImageEncoder(obs_shapes=shapes, **settings)
