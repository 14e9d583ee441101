"""Which weights decay, and what a student takes from its teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genpolicy.errors import CheckpointError
from genpolicy.networks import (
    ChiTransformer,
    ConditionalUnet1D,
    DiT,
    FourierEmbedding,
    ResidualMLP,
    load_teacher_weights,
    weight_decay_groups,
)

DIMS = {"action_dim": 2, "horizon": 4, "n_obs_steps": 2, "obs_dim": 3}
NETWORKS = {
    "residual_mlp": (ResidualMLP, {"width": 8, "time_dim": 8}),
    "unet1d": (ConditionalUnet1D, {"dims": (8, 16), "time_dim": 8}),
    "transformer": (ChiTransformer, {"width": 8, "n_layers": 1}),
    "dit": (DiT, {"width": 8, "n_layers": 1, "time_dim": 8}),
}


def names_of(module: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    names = {id(p): name for name, p in module.named_parameters()}
    return [names[id(p)] for p in parameters]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_matrices_decay_and_nothing_else(name):
    kind, settings = NETWORKS[name]
    network = kind(**DIMS, **settings)
    decayed, rest = weight_decay_groups(network, 0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    chosen, others = names_of(network, decayed["params"]), names_of(network, rest["params"])
    assert sorted(chosen + others) == sorted(name for name, _ in network.named_parameters())
    assert all(p.ndim >= 2 for p in decayed["params"])
    exempt = {"action_positions", "memory_positions"} & set(others)
    assert len(exempt) == (2 if name == "transformer" else 0)
    assert all(p.ndim == 1 for n, p in zip(others, rest["params"], strict=True) if n not in exempt)


def test_frozen_parameters_are_left_out_and_shared_ones_listed_once():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    module[1].weight = module[0].weight
    module[1].bias.requires_grad_(False)
    decayed, rest = weight_decay_groups(module, 0.1)
    assert names_of(module, decayed["params"]) == ["0.weight"]
    assert names_of(module, rest["params"]) == ["0.bias", "2.weight", "2.bias"]


def test_attention_of_torch_decays_and_learned_frequencies_do_not():
    module = nn.ModuleList([nn.MultiheadAttention(8, 2), FourierEmbedding(dim=8, learned=True)])
    decayed, rest = weight_decay_groups(module, 0.1)
    assert names_of(module, decayed["params"]) == ["0.in_proj_weight", "0.out_proj.weight"]
    assert names_of(module, rest["params"])[-1] == "1.frequencies"


def test_a_decayed_weight_shrinks_and_a_bias_does_not():
    module = nn.Linear(2, 2)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.AdamW(weight_decay_groups(module, 0.5), lr=0.1)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(module.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(module.bias, before["bias"])


def residual(**changes) -> ResidualMLP:
    return ResidualMLP(**{**DIMS, "width": 8, "time_dim": 8, "n_blocks": 1, **changes})


@pytest.mark.parametrize(
    ("changes", "entry"),
    [
        (
            {"width": 4},
            r"actions.weight: the teacher has \(8, 8\) of float32, the student \(4, 8\)",
        ),
        ({"n_blocks": 2}, "blocks.1.up.weight: the student has .* the teacher no such entry"),
        ({"layer_norm": False}, "norm.weight: .* the student no such entry"),
        ({"horizon": 6}, "out.weight"),
    ],
)
def test_teachers_of_other_settings_are_refused_and_nothing_is_copied(changes, entry):
    teacher, student = residual(), residual(**changes, n_times=2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(CheckpointError, match=entry):
        load_teacher_weights(student, teacher.state_dict())
    after = student.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_teacher_of_two_times_does_not_fit_a_student_of_one():
    with pytest.raises(CheckpointError, match=r"time\.second\.0\.weight.*no such entry"):
        load_teacher_weights(residual(), residual(n_times=2).state_dict())


def test_weights_of_another_precision_are_refused():
    with pytest.raises(CheckpointError, match="float64"):
        load_teacher_weights(residual(), residual().double().state_dict())


def test_equal_modules_are_copied_whole_and_stay_separate():
    teacher, student = residual(), residual()
    report = load_teacher_weights(student, teacher.state_dict())
    assert report.kept == []
    with torch.no_grad():
        teacher.out.bias.add_(1.0)
    assert not torch.equal(student.out.bias, teacher.out.bias)
