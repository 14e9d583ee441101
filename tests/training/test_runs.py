"""Training runs: every algorithm trains, saves and reloads; a stopped run continues exactly."""

import json

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file

from genpolicy import compose
from genpolicy.cli.compose_config import compose_config
from genpolicy.errors import NumericsError, UsageError
from genpolicy.policies import load_policy, read_card
from genpolicy.policies.checkpoint import save
from genpolicy.sampling import Sampler
from genpolicy.training import fit, resume, train
from genpolicy.training.callbacks import ClipGradients, SaveRun

OBS = {"state": torch.randn(3, 1, 4), "goal": torch.randn(3, 1, 2)}

FLOW_MAP = ["denoiser=flow_map_linear", "sampler=consistency"]
ALGORITHMS = {
    "flow_bc": [],
    "flow_bc-coupled": [
        "algorithm.coupling={_target_: genpolicy.losses.OptimalCoupling}",
    ],
    "diffusion_bc": ["algorithm=diffusion_bc", "path=cosine", "denoiser=v", "sampler=ddim"],
    "diffusion_bc-edm": [
        "algorithm=diffusion_bc",
        "path=karras",
        "denoiser=edm",
        "sampler=heun",
    ],
    "diffusion_bc-ddpm": [
        "algorithm=diffusion_bc",
        "path=ddpm",
        "denoiser=noise",
        "sampler=ddpm",
        "policy.sampler.n_steps=5",
    ],
    "consistency_bc": [
        "algorithm=consistency_bc",
        "path=karras",
        "denoiser=flow_map",
        "sampler=consistency",
    ],
    "consistency_bc-averaged-target": [
        "algorithm=consistency_bc",
        "algorithm.target_decay=0.9",
        "path=karras",
        "denoiser=flow_map",
        "sampler=consistency",
    ],
}


def _weights(run, kind):
    return load_file(run / "last" / f"{kind}.safetensors")


def _same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_saves_and_reloads(tiny_config, name):
    run = train(tiny_config(*ALGORITHMS[name], "trainer.max_steps=3"), progress=False)
    policy = load_policy(run)
    again = load_policy(run / "last")
    chunk = policy.sample(OBS, seeds=range(3))
    assert chunk.shape == (3, 16, 2)
    assert torch.equal(chunk, again.sample(OBS, seeds=range(3)))
    card = read_card(run)
    assert card.training["step"] == 3
    assert card.metrics["val/loss"] > 0
    assert not _same(_weights(run, "ema"), _weights(run, "raw"))


def test_a_consistency_policy_is_distilled_from_a_trained_teacher(tiny_config):
    teacher = train(tiny_config(run="teacher"), progress=False)
    config = tiny_config(
        "experiment=maze2d_umaze_consistency", f"algorithm.teacher='{teacher / 'last'}'", run="s"
    )
    student = train(config, progress=False)
    policy = load_policy(student)
    assert policy.denoiser.kind == "flow_map"
    assert policy.sampler.nfe(policy.denoiser.path) == 2
    assert torch.isfinite(policy.sample(OBS, seeds=range(3))).all()


def test_a_composition_is_distilled(tiny_config, tmp_path):
    diffusion = ["algorithm=diffusion_bc", "path=cosine", "denoiser=v", "sampler=ddim"]
    flow = load_policy(train(tiny_config(run="flow"), progress=False))
    other = load_policy(train(tiny_config(*diffusion, run="diffusion"), progress=False))
    folder = save(compose.mean([flow, other], [0.5, 0.5]), tmp_path / "both")
    overrides = ["experiment=maze2d_umaze_consistency", f"algorithm.teacher='{folder}'"]
    student = load_policy(train(tiny_config(*overrides, run="s"), progress=False))
    assert student.kind == "flow_map"
    assert student.sample(OBS, seeds=range(3)).isfinite().all()
    sampler = Sampler(rule="ddpm", n_steps=5)
    product = save(compose.product([flow, other], sampler=sampler), tmp_path / "product")
    refused = tiny_config(*overrides[:1], f"algorithm.teacher='{product}'", run="refused")
    with pytest.raises(UsageError, match="product"):
        train(refused, progress=False)


@pytest.mark.parametrize("start_from_teacher", ["true", "false"])
def test_a_trajectory_policy_is_distilled_from_an_edm_teacher(tiny_config, start_from_teacher):
    edm = ["algorithm=diffusion_bc", "path=karras", "denoiser=edm", "sampler=heun"]
    teacher = train(tiny_config(*edm, "trainer.max_steps=3", run="teacher"), progress=False)
    student = train(
        tiny_config(
            "algorithm=distill_trajectory",
            f"algorithm.teacher='{teacher / 'last'}'",
            f"algorithm.start_from_teacher={start_from_teacher}",
            "path=karras",
            "denoiser=trajectory",
            "sampler=consistency",
            run="s",
        ),
        progress=False,
    )
    assert load_policy(student).sample(OBS, seeds=range(3)).isfinite().all()
    other = tiny_config(
        "algorithm=distill_trajectory",
        f"algorithm.teacher='{teacher / 'last'}'",
        "denoiser=flow_map",
        "path=karras",
        run="other",
    )
    with pytest.raises(UsageError, match="denoiser=trajectory"):
        train(other, progress=False)


def test_distillation_refuses_a_teacher_of_other_windows(tiny_config):
    teacher = train(tiny_config("trainer.max_steps=2", run="teacher"), progress=False)
    config = tiny_config(
        "experiment=maze2d_umaze_consistency",
        f"algorithm.teacher='{teacher / 'last'}'",
        "data.horizon=12",
        run="s",
    )
    with pytest.raises(Exception, match="trained for TaskSpec") as caught:
        train(config, progress=False)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("stop_after", [2, 3, 4])
@pytest.mark.parametrize("name", ["flow_bc", "consistency_bc-averaged-target"])
def test_a_stopped_run_continues_bit_for_bit(tiny_config, monkeypatch, name, stop_after):
    overrides = [*ALGORITHMS[name], "log_every=3"]
    whole = train(tiny_config(*overrides, run="whole"), progress=False)
    steps = {"n": 0}
    original = SaveRun.on_train_batch_end

    def stop(self, trainer, *args):
        original(self, trainer, *args)
        steps["n"] += 1
        if steps["n"] == stop_after:
            raise RuntimeError("power cut")

    monkeypatch.setattr(SaveRun, "on_train_batch_end", stop)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config(*overrides, run="parts"), progress=False)
    monkeypatch.setattr(SaveRun, "on_train_batch_end", original)
    parts = resume(whole.parent / "parts", progress=False)
    for kind in ("ema", "raw"):
        assert _same(_weights(whole, kind), _weights(parts, kind))
    assert (whole / "metrics.jsonl").read_text() == (parts / "metrics.jsonl").read_text()
    assert (whole / "best").readlink() == (parts / "best").readlink()


def test_resuming_a_finished_run_changes_nothing(tiny_config):
    run = train(tiny_config(), progress=False)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    resume(run, progress=False)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_last_and_best_are_kept_and_older_ones_go(tiny_config):
    run = train(tiny_config("save.best_metric=nothing"), progress=False)
    kept = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000006"]
    assert (run / "last").readlink().name == "step-00000006"
    assert (run / "best").readlink().name == "step-00000002"
    assert [p.name for p in (run / "state").iterdir()] == ["step-00000006"]
    everything = train(tiny_config("save.keep=all", run="all"), progress=False)
    assert len(list((everything / "checkpoints").iterdir())) == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tiny_config, monkeypatch
):
    from genpolicy.algorithms import FlowBC

    original = FlowBC.training_step

    def poisoned(self, batch, batch_idx):
        out = original(self, batch, batch_idx)
        return {**out, "loss": out["loss"] * float("nan")} if self.global_step == 3 else out

    monkeypatch.setattr(FlowBC, "training_step", poisoned)
    config = tiny_config()
    with pytest.raises(NumericsError, match="step 4"):
        train(config, progress=False)
    assert load_policy(config["run_dir"]).sample(OBS, seeds=range(3)).isfinite().all()
    assert read_card(config["run_dir"]).training["step"] == 2


def test_a_second_run_in_the_same_folder_is_refused(tiny_config):
    config = tiny_config("trainer.max_steps=2")
    train(config, progress=False)
    with pytest.raises(UsageError, match="resume="):
        train(config, progress=False)


def test_metrics_are_strict_json_with_increasing_steps(tiny_config):
    run = train(tiny_config(), progress=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "val/loss" in line] == [2, 4, 6]


def test_float16_is_refused(tiny_config):
    with pytest.raises(UsageError, match="bf16-mixed"):
        fit.train(tiny_config("trainer.precision=16-mixed"), progress=False)


def test_a_horizon_that_the_network_cannot_have_is_refused_before_training(tiny_config):
    config = tiny_config("data.horizon=18")
    unet = compose_config("train", ["network=unet1d_small"])["policy"]["network"]
    config["policy"]["network"] = unet
    with pytest.raises(UsageError, match="horizon"):
        train(config, progress=False)


def test_a_run_takes_the_action_units_of_a_policy(tiny_config, tmp_path):
    base = train(tiny_config(run="base"), progress=False)
    other = ["data.max_episodes=3", "data.action_normalizer=mean_std", "trainer.max_steps=2"]
    alone = load_policy(train(tiny_config(*other, run="alone"), progress=False))
    same = [*other[::2], f"data.action_normalizer='{base}'"]
    shared = load_policy(train(tiny_config(*same, run="shared"), progress=False))
    assert read_card(base).normalizer["action"] == shared.normalizer.to_json()["action"]
    assert read_card(base).normalizer["obs"] != shared.normalizer.to_json()["obs"]
    with pytest.raises(UsageError, match="Fit one normalizer"):
        compose.mean([load_policy(base), alone], [0.5, 0.5])
    compose.mean([load_policy(base), shared], [0.5, 0.5])
    with pytest.raises(UsageError, match=r"is 'minmax', expected one of .*'min_max'"):
        train(tiny_config("data.action_normalizer=minmax", run="typo"), progress=False)


def test_parts_of_an_algorithm_are_clipped_apart():
    class TwoParts(LightningModule):
        def __init__(self):
            super().__init__()
            self.policy, self.critic = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
            self.temperature = torch.nn.Parameter(torch.zeros(1))

    module = TwoParts()
    sizes = {"policy": 0.1, "critic": 50.0, "temperature": 7.0}
    for name, parameter in module.named_parameters():
        parameter.grad = torch.full_like(parameter, sizes[name.split(".")[0]])
    before = module.policy.weight.grad.clone()
    clip = ClipGradients(1.0)
    clip.on_fit_start(None, module)
    clip.on_before_optimizer_step(None, module, None)
    assert torch.equal(module.policy.weight.grad, before)
    critic = torch.cat([p.grad.flatten() for p in module.critic.parameters()])
    assert critic.norm().item() == pytest.approx(1.0, rel=1e-4)
    assert module.temperature.grad.item() == pytest.approx(1.0, rel=1e-4)
