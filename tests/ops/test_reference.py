"""The affine step: each term, limits, pinned entries, dtypes."""

import pytest
import torch

from genpolicy.ops import affine_step


def chunks(dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 5, 2, generator=draw, dtype=dtype).unbind(0)


def test_it_is_the_weighted_sum():
    x, denoised, previous, noise = chunks()
    out = affine_step(
        x, denoised, previous, noise, c_x=0.3, c_denoised=0.5, c_previous=-0.2, c_noise=0.7
    )
    expected = 0.3 * x + 0.5 * denoised - 0.2 * previous + 0.7 * noise
    torch.testing.assert_close(out, expected, atol=1e-15, rtol=1e-15)


def test_absent_terms_are_left_out():
    x, denoised, *_ = chunks()
    out = affine_step(x, denoised, c_x=0.3, c_denoised=0.5, c_previous=9.0, c_noise=9.0)
    torch.testing.assert_close(out, 0.3 * x + 0.5 * denoised)


def test_limits_act_on_both_denoised_chunks_and_on_nothing_else():
    x, denoised, previous, noise = (10 * c for c in chunks())
    out = affine_step(
        x,
        denoised,
        previous,
        noise,
        c_x=1.0,
        c_denoised=1.0,
        c_previous=1.0,
        c_noise=1.0,
        lo=-1.0,
        hi=0.5,
    )
    expected = x + denoised.clamp(-1.0, 0.5) + previous.clamp(-1.0, 0.5) + noise
    torch.testing.assert_close(out, expected)
    above = affine_step(x, denoised, c_x=0.0, c_denoised=1.0, hi=0.5)
    torch.testing.assert_close(above, denoised.clamp(max=0.5))


def test_pinned_entries_replace_the_result():
    x, denoised, pinned, _ = chunks()
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, 1] = True
    free = affine_step(x, denoised, c_x=0.5, c_denoised=0.5)
    out = affine_step(x, denoised, c_x=0.5, c_denoised=0.5, pinned=pinned, mask=mask)
    assert torch.equal(out[mask], pinned[mask])
    assert torch.equal(out[~mask], free[~mask])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3, 4), (1, 1, 1)])
def test_shape_and_dtype_are_kept_and_inputs_untouched(dtype, shape):
    x = torch.ones(shape, dtype=dtype)
    out = affine_step(x, x, x, x, c_x=0.1, c_denoised=0.2, c_previous=0.3, c_noise=0.4, lo=-2.0)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert torch.equal(x, torch.ones(shape, dtype=dtype))
    assert out.data_ptr() != x.data_ptr() or x.numel() == 0


def test_it_has_gradients():
    inputs = [c.clone().requires_grad_(True) for c in chunks()]

    def step(*tensors):
        return affine_step(
            *tensors, c_x=0.3, c_denoised=0.5, c_previous=-0.2, c_noise=0.7, lo=-1.0, hi=1.0
        )

    assert torch.autograd.gradcheck(step, inputs)
