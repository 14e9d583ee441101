"""Members in other coordinates: card T1, units, and parts of chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.composition import OnPath, Part, Restricted, common_path, mean, on_path
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, TabulatedPath, VPPath, grid
from genpolicy.sampling import make_rule, sample
from tests.oracles import GaussianDenoiser, sample_moments

PATHS = {
    "linear": LinearPath(t_min=0.002, t_max=0.98),
    "cosine": CosinePath(),
    "vp": VPPath(),
    "karras": KarrasPath(),
    "tabulated": TabulatedPath(),
}


@pytest.mark.parametrize("inner", PATHS)
@pytest.mark.parametrize("outer", PATHS)
def test_t1_a_gaussian_on_another_path_is_that_gaussian(outer, inner):
    path = common_path(PATHS[outer], [(PATHS[inner], 1.0)])
    moved = on_path(GaussianDenoiser(PATHS[inner], mean=0.3, std=0.4), path)
    native = GaussianDenoiser(path, mean=0.3, std=0.4)
    t = torch.linspace(path.t_min, path.t_max, 9, dtype=torch.float64)
    x = torch.randn(9, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved(x, t, None), native(x, t), rtol=1e-6, atol=1e-8)
    for row in range(9):  # one level for all rows takes another way through the code
        level = t[row].expand(9)
        torch.testing.assert_close(
            moved(x, level, None)[row], native(x, t)[row], rtol=1e-6, atol=1e-8
        )


@given(
    ratio=st.floats(0.2, 5.0),
    offset=st.floats(-2.0, 2.0),
    centre=st.floats(-1, 1),
    width=st.floats(0.1, 1),
)
@settings(max_examples=20, deadline=None)
def test_units_change_by_offset_and_one_factor(ratio, offset, centre, width):
    inner, outer = CosinePath(), LinearPath()
    path = common_path(outer, [(inner, ratio)])
    member = GaussianDenoiser(inner, mean=centre, std=width)  # in its own units
    moved = on_path(member, path, ratio=ratio, offset=torch.tensor([offset], dtype=torch.float64))
    native = GaussianDenoiser(path, mean=ratio * (centre - offset), std=ratio * width)
    t = torch.linspace(path.t_min, path.t_max, 7, dtype=torch.float64)
    x = torch.linspace(-2, 2, 7, dtype=torch.float64).reshape(7, 1, 1)
    torch.testing.assert_close(moved(x, t, None), native(x, t), rtol=1e-6, atol=1e-7)


def test_the_same_path_and_units_change_nothing():
    member = GaussianDenoiser(LinearPath())
    assert on_path(member, LinearPath()) is member


def test_a_common_path_is_the_path_itself_where_it_can_be():
    path = CosinePath()
    assert common_path(path, [(LinearPath(), 1.0), (path, 1.0)]) is path


def test_a_common_path_is_cut_to_what_members_know():
    path = common_path(LinearPath(), [(CosinePath(), 1.0)])
    assert isinstance(path, Restricted)
    assert 0.0 < path.t_min < path.t_max < 1.0
    cosine = CosinePath()
    ends = torch.tensor([cosine.t_max], dtype=torch.float64)
    alpha, sigma = cosine.alpha_sigma(ends)
    mine = path.alpha_sigma(torch.tensor([path.t_max], dtype=torch.float64))
    assert (mine[1] / mine[0]).item() == pytest.approx((sigma / alpha).item(), rel=1e-6)
    again = common_path(path, [(VPPath(), 1.0)])
    assert isinstance(again, Restricted)
    assert again.inner == LinearPath()


def test_paths_without_common_levels_are_refused():
    with pytest.raises(UsageError, match="do not overlap"):
        common_path(LinearPath(t_min=0.9, t_max=0.95), [(LinearPath(t_min=0.1, t_max=0.2), 1.0)])


def test_a_path_beyond_the_members_levels_is_refused():
    with pytest.raises(UsageError, match="common_path"):
        on_path(GaussianDenoiser(CosinePath()), LinearPath())


def test_a_flow_and_a_diffusion_member_start_at_pure_noise_alike():
    flow = on_path(GaussianDenoiser(LinearPath(), mean=0.4, std=0.1), KarrasPath(sigma_max=50.0))
    x = torch.full((1, 1, 1), 30.0)
    t = torch.tensor([1.0])
    native = GaussianDenoiser(KarrasPath(sigma_max=50.0), mean=0.4, std=0.1)
    torch.testing.assert_close(flow(x, t, None), native(x, t), rtol=1e-5, atol=1e-6)


def test_samples_on_another_path_have_the_members_law():
    path = common_path(LinearPath(), [(CosinePath(), 1.0)])
    moved = on_path(GaussianDenoiser(CosinePath(), mean=0.4, std=0.3), path)
    mu, sd = sample_moments(moved, grid(path, 400, "log_snr"), make_rule("ddim"))
    assert (mu, sd) == pytest.approx((0.4, 0.3), rel=0.01)


def test_a_part_answers_for_its_entries_only():
    path = LinearPath(t_max=0.99)
    inner = GaussianDenoiser(path, mean=0.7, std=0.2)
    part = Part(inner=inner, horizon=4, action_dim=3, first=1, steps=2, dims=(2, 0))
    x = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    t = torch.full((5,), 0.5)
    out = part(x, t)
    expected = inner(x, t)
    assert part.coverage.sum() == 4
    torch.testing.assert_close(out[:, part.coverage], expected[:, part.coverage])
    assert out[:, ~part.coverage].abs().max() == 0


def test_the_mean_of_a_long_and_a_short_member_is_the_long_one_at_its_tail():
    path = LinearPath(t_max=0.99)
    long = GaussianDenoiser(path, mean=-1.0, std=0.3)
    short = GaussianDenoiser(path, mean=1.0, std=0.3)
    part = Part(inner=short, horizon=6, action_dim=2, first=0, steps=4, dims=(0, 1))
    both = mean([long, part], [0.25, 0.75])
    x = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))
    t = torch.full((3,), 0.4)
    torch.testing.assert_close(both(x, t)[:, 4:], long(x, t)[:, 4:])
    blend = 0.25 * long(x, t) + 0.75 * short(x, t)
    torch.testing.assert_close(both(x, t)[:, :4], blend[:, :4])
    assert both.coverage is None


@pytest.mark.parametrize(
    "wrong", [{"first": 3}, {"dims": (0, 0)}, {"dims": (0, 3)}, {"steps": 0}, {"first": -1}]
)
def test_parts_outside_the_whole_are_refused(wrong):
    settings_ = {"horizon": 4, "action_dim": 3, "first": 1, "steps": 2, "dims": (0, 1)} | wrong
    with pytest.raises(UsageError, match="expected a part"):
        Part(inner=GaussianDenoiser(LinearPath()), **settings_)


def test_moved_members_keep_rows_apart():
    path = common_path(LinearPath(), [(CosinePath(), 1.0)])
    moved = on_path(GaussianDenoiser(CosinePath(), mean=0.1, std=0.3), path)
    assert isinstance(moved, OnPath)
    x = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(3))
    whole = sample(moved, x, grid(path, 5), None, rule=make_rule("ddim"))
    alone = sample(moved, x[2:3], grid(path, 5), None, rule=make_rule("ddim"))
    assert torch.equal(whole[2:3], alone)
