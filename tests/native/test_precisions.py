"""Products in other precisions than float32."""

import pytest
import torch

import genpolicy as gp
from genpolicy.ops import backend
from genpolicy.ops.program import Header, Precision
from genpolicy.policies import compiled
from genpolicy.policies.compiled import why_not_compiled
from tests.native.cases import assert_as_close, exact, in_torch, needs_kernels, observations, policy
from tests.native.test_policies import INSIDE


@pytest.mark.parametrize("network", ["MLP", "ResidualMLP"])
def test_products_in_bfloat16_are_close_with_either_implementation(network, monkeypatch):
    full = policy(network=network, network_options={"width": 64}, **INSIDE)
    low = full.with_sampler(precision="bf16")
    obs, seeds = observations(full, 40), list(range(40))
    exact_actions = in_torch(full, obs, seeds, monkeypatch)
    span = float(exact_actions.max() - exact_actions.min())
    for actions in (low.sample(obs, seeds=seeds), in_torch(low, obs, seeds, monkeypatch)):
        error = (actions - exact_actions).abs()
        assert 0.0 < float(error.max()) < 0.03 * span
        assert float(error.mean()) < 2e-3 * span
    reference = exact(low, obs, seeds)
    if why_not_compiled(low) == "":
        torch.testing.assert_close(
            low.sample(obs, seeds=seeds).double(), reference, atol=0.01 * span, rtol=0
        )


@needs_kernels
@pytest.mark.parametrize("network", ["MLP", "ResidualMLP", "ConditionalUnet1D"])
def test_numbers_in_pieces_are_as_exact_as_float32(network, monkeypatch):
    """Also where float32 is far from them: inputs of a thousand, and of a thousandth."""
    options = {"dims": [32, 64], "n_groups": 8} if network.startswith("C") else {"width": 300}
    full = policy(network=network, network_options=options, horizon=8, **INSIDE)
    obs, seeds = observations(full, 70), list(range(70))
    for scale in (1.0, 1e3, 1e-3):
        seen = {key: scale * values for key, values in obs.items()}
        made = full.with_sampler(precision="bf16x3")
        truth = exact(full, seen, seeds)
        torch.testing.assert_close(exact(made, seen, seeds), truth, atol=1e-9, rtol=1e-9)
        reference = in_torch(full, seen, seeds, monkeypatch)
        assert_as_close(made.sample(seen, seeds=seeds), reference, truth)


@needs_kernels
def test_on_a_cuda_device_numbers_are_in_one_piece(monkeypatch):
    made = policy(network_options={"width": 16}).with_sampler(precision="bf16x3")
    monkeypatch.setattr(compiled, "_check_devices", lambda devices: None)
    monkeypatch.setattr(compiled, "_on_host", lambda policy: policy)
    monkeypatch.setattr(type(made), "device", property(lambda policy: torch.device("cuda", 0)))
    code, _, _, weights = compiled.write_policy(made, fields=compiled.fields_of(made))
    assert int(code[Header.PRECISION]) == Precision.FP32
    assert weights.dtype == torch.float32


@needs_kernels
def test_an_explanation_says_what_products_are_made_in():
    made = policy(network_options={"width": 16})
    pieces = "float32 as sums of 3 numbers in bfloat16" if backend().has_matrix_unit else "float32"
    for precision, text in (("bf16", "bfloat16"), ("bf16x3", pieces)):
        lines = str(gp.compose.explain(made.with_sampler(precision=precision))).splitlines()
        assert f"  runs      in compiled operators, products in {text}" in lines
    assert "  runs      in compiled operators" in str(gp.compose.explain(made)).splitlines()
