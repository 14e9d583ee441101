"""Runs that are recorded and replayed: by a recorder that keeps a run's tensor operations."""

import copy

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import genpolicy as gp
from genpolicy.policies.compiled import compiled_sampler
from genpolicy.policies.explanation import explain
from genpolicy.policies.recorded import CudaRecorder, Recordings
from genpolicy.policies.scheduled import ScheduledRun
from tests.native.cases import in_torch, needs_kernels, observations, policy
from tests.native.test_policies import RULES


class Tape:
    """Records tensor operations on the CPU: replaying them runs no Python of the policy."""

    def __init__(self):
        self.n_recorded = self.n_replayed = self.n_ordered = 0
        self.refuses = False

    def record(self, run):
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        self.n_recorded += 1
        out = run()
        tape = make_fx(run, tracing_mode="real")()

        def replay():
            self.n_replayed += 1
            out.copy_(tape())

        return replay, out

    def order(self):
        self.n_ordered += 1


def transformer(**options):
    return policy(
        network="DiT",
        network_options={"width": 16, "n_layers": 1, "n_heads": 2},
        **options,
    )


def recorded(made, tape):
    """Let a policy's runs be recorded."""
    made.eval()
    run = ScheduledRun(made, recorder=tape)
    object.__setattr__(compiled_sampler(made), "scheduled", run)
    return run


NOISE = {
    "path": "VPPath",
    "path_options": {"t_max": 0.9},
    "denoiser_options": {"predicts": "noise"},
}


def a_sum():
    """Return two members on other paths, of which one has a program."""
    second = policy(path="CosinePath", denoiser_options={"predicts": "v"}, seed=2)
    return gp.compose.mean([transformer(), second], weights=[0.3, 0.7])


@needs_kernels
@pytest.mark.parametrize("which", ["ddpm", "heun", "dpmpp_2m", "a sum"])
def test_replays_follow_observations_and_seeds(monkeypatch, which):
    made = a_sum() if which == "a sum" else transformer(**NOISE).with_sampler(**RULES[which])
    tape = Tape()
    recorded(made, tape)
    for number in range(3):
        obs = observations(made, 11, seed=number)
        seeds = [number * 1000 + row for row in range(10)] + [2**64 - 1]
        found = made.sample(obs, seeds=seeds)
        torch.testing.assert_close(
            found, in_torch(made, obs, seeds, monkeypatch), atol=2e-5, rtol=2e-5
        )
    # Blocks of 8 rows have one shape: two blocks a call, one recording.
    assert (tape.n_recorded, tape.n_replayed, tape.n_ordered) == (1, 6, 6)


@needs_kernels
def test_one_recording_for_each_type_of_observations():
    made, tape = transformer(), Tape()
    recorded(made, tape)
    obs = observations(made, 2)
    made.sample(obs, seeds=[0, 1])
    made.sample({key: value.double() for key, value in obs.items()}, seeds=[0, 1])
    made.sample(obs, seeds=[2, 3])
    assert (tape.n_recorded, tape.n_replayed) == (2, 3)


@needs_kernels
def test_changed_weights_are_recorded_again():
    made, tape = transformer(), Tape()
    run = recorded(made, tape)
    obs = observations(made, 2)
    before = made.sample(obs, seeds=[0, 1])
    with torch.no_grad():
        for parameter in made.denoiser.parameters():
            parameter.add_(0.1)
    assert compiled_sampler(made).scheduled is not run
    recorded(made, tape)
    assert not torch.equal(made.sample(obs, seeds=[0, 1]), before)
    assert tape.n_recorded == 2


@needs_kernels
def test_weights_that_moved_are_seen():
    made = transformer()
    first = compiled_sampler(made)
    parameter = next(made.denoiser.parameters())
    parameter.data = parameter.data.clone()  # what Module.to does: no new version
    assert compiled_sampler(made) is not first


@needs_kernels
def test_what_cannot_be_recorded_is_run(monkeypatch):
    made, tape = transformer(**NOISE).with_sampler(**RULES["ddpm"]), Tape()
    tape.refuses = True
    run = recorded(made, tape)
    obs = observations(made, 3)
    found = made.sample(obs, seeds=[4, 5, 6])
    right = in_torch(made, obs, [4, 5, 6], monkeypatch)
    torch.testing.assert_close(found, right, atol=2e-5, rtol=2e-5)
    reason = "operation not permitted when stream is capturing"
    assert run.recordings.reason == reason
    assert str(explain(made)).count(f"no CUDA graph: {reason}") == 1
    made.sample(obs, seeds=[4, 5, 6])
    assert tape.n_replayed == 0


@needs_kernels
def test_an_explanation_says_that_runs_are_replayed():
    made = transformer()
    assert "CUDA graph" not in str(explain(made))  # on a CPU
    recorded(made, Tape())
    assert "replayed as a CUDA graph" in str(explain(made))


def test_only_the_last_shapes_are_kept_and_copies_begin_anew():
    tape = Tape()
    recordings = Recordings(tape)

    def double(given):
        return given["x"] * 2.0

    for n in (*range(1, 11), 10, 9, 1):
        x = torch.arange(float(n))
        assert torch.equal(recordings({"x": x}, double), 2.0 * x)
    assert tape.n_recorded == 11  # 1 was dropped
    copied = copy.deepcopy(recordings)
    copied({"x": torch.ones(10)}, double)
    assert tape.n_recorded == 12


def test_a_result_is_kept_while_others_are_computed():
    recordings = Recordings(Tape())
    first = recordings({"x": torch.ones(2)}, lambda given: given["x"] + 1.0)
    recordings({"x": torch.zeros(2)}, lambda given: given["x"] + 1.0)
    assert first.tolist() == [2.0, 2.0]


@pytest.mark.gpu
def test_a_graph_on_the_device(monkeypatch):
    made = transformer(**NOISE).with_sampler(**RULES["ddpm"])
    obs, seeds = observations(made, 11), list(range(11))
    right = in_torch(made, obs, seeds, monkeypatch)
    made = made.to("cuda")
    scheduled = compiled_sampler(made).scheduled
    if scheduled is None or scheduled.recordings is None:
        pytest.skip("genpolicy_ext has no CUDA kernels; build it with: GENPOLICY_CUDA=1 make ext")
    for _ in range(2):
        found = made.sample(obs, seeds=seeds)
        torch.testing.assert_close(found.cpu(), right, atol=1e-4, rtol=1e-4)
    assert isinstance(scheduled.recordings._recorder, CudaRecorder)
    assert scheduled.recordings.reason == ""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        aside = made.sample(obs, seeds=seeds)
    stream.synchronize()
    torch.testing.assert_close(aside.cpu(), right, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        next(made.denoiser.parameters()).mul_(2.0)
    assert not torch.equal(made.sample(obs, seeds=seeds), found)
