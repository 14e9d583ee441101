"""The evaluation with the real environments and a generative policy of random weights."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.data.normalizer import Normalizer
from genpolicy.errors import CheckpointError
from genpolicy.evaluation import EvaluationTask, evaluate, identify_policy, read_ledger, replay
from genpolicy.evaluation.video import record_videos
from genpolicy.policies import GenerativePolicy, PolicyCard, build_policy, load_policy, save_policy
from genpolicy.shapes import TaskSpec

pytestmark = pytest.mark.sim

SEEDS = list(range(7))
CONFIG = {
    "encoder": {"_target_": "genpolicy.networks.LowDimEncoder"},
    "network": {
        "_target_": "genpolicy.networks.ResidualMLP",
        "width": 16,
        "n_blocks": 1,
    },
    "path": {"_target_": "genpolicy.paths.LinearPath"},
    "denoiser": {"_target_": "genpolicy.denoisers.ParameterizedDenoiser", "predicts": "velocity"},
    "sampler": {"_target_": "genpolicy.sampling.Sampler", "rule": "euler", "n_steps": 2},
}


def make_policy(task: str = "maze2d-umaze") -> GenerativePolicy:
    rng = np.random.default_rng(0)
    obs = {
        "maze2d-umaze": {"state": rng.normal(size=(40, 4)), "goal": np.ones((40, 2))},
        "pusht": {
            "keypoints": rng.uniform(0, 512, (40, 18)),
            "agent_pos": rng.uniform(0, 512, (40, 2)),
        },
    }[task]
    scale = 512.0 if task == "pusht" else 1.2
    episodes = Episodes(
        obs={key: value.astype(np.float32) for key, value in obs.items()},
        actions=(scale * rng.uniform(0 if task == "pusht" else -1, 1, (40, 2))).astype(np.float32),
        rewards=None,
        terminated=np.zeros(40, dtype=bool),
        truncated=np.arange(40) == 39,
        episode_ends=np.array([40]),
        source=DataSource(name=task, kind="local"),
    )
    spec = TaskSpec(
        task=task,
        obs_shapes={key: value.shape[1:] for key, value in episodes.obs.items()},
        action_dim=2,
        n_obs_steps=2,
        horizon=8,
        n_action_steps=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = build_policy(CONFIG, spec=spec, normalizer=Normalizer.fit(episodes))
    return policy.eval()


@pytest.fixture(scope="module")
def policy() -> GenerativePolicy:
    return make_policy()


@pytest.fixture(scope="module")
def maze() -> EvaluationTask:
    return EvaluationTask.named("maze2d-umaze", max_steps=15)


@pytest.fixture(scope="module")
def expected(policy: GenerativePolicy, maze: EvaluationTask) -> Any:
    return evaluate(policy, maze, seeds=SEEDS, n_envs=1, progress=False)


@pytest.mark.parametrize("n_envs", [3, 8])
def test_maze2d_records_do_not_depend_on_the_number_of_environments(
    policy: GenerativePolicy, maze: EvaluationTask, expected: Any, n_envs: int
) -> None:
    result = evaluate(policy, maze, seeds=SEEDS, n_envs=n_envs, progress=False)
    assert result.records == expected.records
    assert [record.n_steps for record in result.records] == [15] * 7
    assert len({record.metrics["clipped_actions"] for record in result.records}) > 1
    assert result.simulators["mujoco"]
    assert result.primary == "d4rl_score"
    assert "max_steps=15" in str(result)


def test_workers_do_not_change_records_and_are_replaced_when_they_die(
    policy: GenerativePolicy, maze: EvaluationTask, expected: Any
) -> None:
    made: list[Any] = []

    def make_slots(n_envs: int, workers: bool) -> Any:
        made.append(maze.make_slots(n_envs, workers))
        return made[-1]

    class Killer:
        """Kills a worker, once, from outside."""

        spec = policy.spec
        n_calls = 0

        def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
            self.n_calls += 1
            if self.n_calls == 3:
                victim = next(p for p in multiprocessing.active_children() if "Worker" in p.name)
                assert victim.pid is not None
                os.kill(victim.pid, signal.SIGKILL)
                victim.join()
            return policy.sample(obs, seeds=seeds)

    task = replace(maze, make_slots=make_slots)
    result = evaluate(Killer(), task, seeds=SEEDS, n_envs=2, workers=True, progress=False)
    assert result.records == expected.records
    assert result.n_restarts == 1
    assert len(made) == 3  # two lanes, and one of them anew
    assert not [p for p in multiprocessing.active_children() if "Worker" in p.name]


def test_pusht_is_evaluated_and_filmed(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="films need imageio-ffmpeg")
    policy = make_policy("pusht")
    task = EvaluationTask.named("pusht", max_steps=6)
    result = evaluate(policy, task, seeds=[3, 4, 5], n_envs=2, progress=False)
    assert result.metric_names[0] == "max_reward"
    assert {"final_coverage", "max_coverage", "success"} <= set(result.metric_names)
    (film,) = record_videos(policy, task, seeds=[4], folder=tmp_path, expected=result.records)
    assert film.mp4.stat().st_size > 1000
    (rollout,) = replay(policy, task, seeds=[4])
    assert rollout.obs["agent_pos"].shape == (7, 2)
    assert (rollout.actions >= 0).all()
    assert (rollout.actions <= 512).all()


def test_the_checkpoint_and_its_weights_are_named(
    policy: GenerativePolicy, maze: EvaluationTask, tmp_path: Path, expected: Any
) -> None:
    run = tmp_path / "run"
    raw = {name: tensor + 1.0 for name, tensor in policy.state_dict().items()}
    card = PolicyCard(
        policy=CONFIG,
        spec=policy.spec,
        normalizer=policy.normalizer.to_json(),
        training={"step": 300},
        dataset={"name": "tiny", "fingerprint": "f" * 64},
    )
    folder = run / "checkpoints" / "step-00000300"
    save_policy(folder, card, {"ema": policy.state_dict(), "raw": raw})
    (run / "last").symlink_to(folder)
    settings: dict[str, Any] = {"seeds": SEEDS, "n_envs": 8, "progress": False}
    for path, weights in ((run / "last", "ema"), (run, "ema"), (folder, "raw")):
        loaded = load_policy(path, weights=weights)
        result = evaluate(loaded, maze, checkpoint=path, **settings)
        assert result.checkpoint is not None
        assert (result.checkpoint.step, result.checkpoint.weights) == (300, weights)
        assert result.checkpoint.links == ("last",)
        assert (result.records == expected.records) == (weights == "ema")
        assert f"step 300, {weights} weights, data tiny ffffffffffff" in str(result)
    with torch.no_grad():
        next(loaded.parameters()).add_(1.0)
    changed = evaluate(loaded, maze, checkpoint=folder, **settings)
    assert "weights CHANGED since loading" in str(changed)
    ledger = tmp_path / "ledger.jsonl"
    evaluate(load_policy(run), maze, checkpoint=run, ledger=ledger, **settings)
    json.dumps(read_ledger(ledger).result().to_json(), allow_nan=False)


def test_a_checkpoint_of_another_task_is_refused(policy: GenerativePolicy, tmp_path: Path) -> None:
    card = PolicyCard(policy=CONFIG, spec=policy.spec, normalizer=policy.normalizer.to_json())
    folder = save_policy(tmp_path / "policy", card, {"ema": policy.state_dict()})
    with pytest.raises(CheckpointError, match=r"'maze2d-umaze'.*'pusht'.*'goal' is \(2,\)"):
        evaluate(policy, "pusht", seeds=[0], checkpoint=folder, progress=False)


def test_the_identity_of_a_generative_policy(policy: GenerativePolicy) -> None:
    first = identify_policy(policy)
    assert first.nfe == 2
    assert "rule=euler n_steps=2 grid=uniform, nfe 2, weights" in first.describe()
    assert first.settings is not None
    assert first.settings["path"]["type"] == "LinearPath"
    assert first == identify_policy(make_policy())
    other = identify_policy(policy.with_sampler(n_steps=3))
    assert other != first
    assert other.weights_sha256 == first.weights_sha256
