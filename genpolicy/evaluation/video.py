"""Films of episodes: mp4 files and PNG filmstrips, from running the episodes once more."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genpolicy.errors import SimulatorError, UsageError
from genpolicy.evaluation.records import EpisodeRecord
from genpolicy.evaluation.rollout import Rollout, replay
from genpolicy.evaluation.task import EvaluationTask
from genpolicy.files import write_bytes

if TYPE_CHECKING:
    from genpolicy.policies import Policy

__all__ = ["EpisodeFilm", "draw_filmstrip", "record_videos", "write_mp4"]

_FPS = 25.0
"""Pictures per second of a film; tasks with fewer control steps than that show every one."""
_MIN_SIDE = 256
"""Smaller pictures are enlarged by a whole factor until their shorter side has this many pixels."""


@dataclass(frozen=True)
class EpisodeFilm:
    """Where the film of one episode is.

    Args:
        record: the episode, the same as in an evaluation of its seed.
        mp4: the film, in real time.
        filmstrip: a PNG with some of its pictures side by side.
    """

    record: EpisodeRecord
    mp4: Path
    filmstrip: Path


def record_videos(
    policy: Policy,
    task: str | EvaluationTask,
    *,
    seeds: Sequence[int],
    folder: str | Path,
    n_action_steps: int | None = None,
    expected: Iterable[EpisodeRecord] = (),
) -> list[EpisodeFilm]:
    """Run episodes once more with pictures and write ``seed-<n>.mp4`` and ``seed-<n>.png``.

    Args:
        policy: what to run.
        task: name of a task of ``genpolicy.envs``, or a task of your own.
        seeds: distinct episode seeds.
        folder: where the files go; created when missing.
        n_action_steps: actions executed per chunk; None for the policy's own.
        expected: records of an evaluation; those of the same seeds have to come out again.

    Raises:
        UsageError: when an episode differs from its expected record.
        SimulatorError: when imageio-ffmpeg is not installed.
    """
    setting = EvaluationTask.named(task) if isinstance(task, str) else task
    every = max(1, round(setting.steps_per_second / _FPS))
    known = {record.seed: record for record in expected}
    films = []
    for seed in seeds:
        rollouts = replay(
            policy, setting, seeds=[seed], n_action_steps=n_action_steps, frame_every=every
        )
        for rollout in rollouts:
            if known.get(seed, rollout.record) != rollout.record:
                raise UsageError(
                    f"the film of seed {seed} is not the recorded episode: got {rollout.record}, "
                    f"expected {known[seed]}; use the policy, sampler and n_action_steps of the "
                    "evaluation"
                )
            target = Path(folder) / f"seed-{seed}"
            frames = list(rollout.frames.values())
            mp4 = write_mp4(
                target.with_suffix(".mp4"), frames, fps=setting.steps_per_second / every
            )
            strip = target.with_suffix(".png")
            write_bytes(strip, draw_filmstrip(rollout))
            films.append(EpisodeFilm(rollout.record, mp4, strip))
    return films


def _fit_for_film(frame: np.ndarray) -> np.ndarray:
    """Return a picture enlarged by a whole factor and padded to the even sides that H.264 needs."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise UsageError(
            f"a picture has shape {frame.shape} and type {frame.dtype}, expected (height, width, "
            "3) uint8"
        )
    factor = -(-_MIN_SIDE // min(frame.shape[:2]))
    large = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    odd = [(0, side % 2) for side in large.shape[:2]]
    return np.ascontiguousarray(np.pad(large, [*odd, (0, 0)], mode="edge"))


def write_mp4(path: str | Path, frames: Sequence[np.ndarray], *, fps: float) -> Path:
    """Write an H.264 film that browsers play; the file is complete or absent.

    Args:
        path: of the mp4.
        frames: equally large pictures ``(height, width, 3)`` uint8, at least one.
        fps: pictures per second, positive; rounded to a whole number.

    Raises:
        UsageError: for no pictures, or pictures of another kind.
        SimulatorError: when imageio-ffmpeg is not installed.
    """
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as error:
        raise SimulatorError(
            "films need imageio-ffmpeg, which is not installed; install it with: "
            "pip install 'genpolicy[sim]'"
        ) from error
    if not frames or fps <= 0:
        raise UsageError(f"write_mp4: got {len(frames)} pictures at {fps} per second")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    pictures = [_fit_for_film(frame) for frame in frames]
    height, width, _ = pictures[0].shape
    stage = target.parent / f".staging-{uuid.uuid4().hex[:8]}.mp4"
    writer = imageio_ffmpeg.write_frames(
        str(stage),
        (width, height),
        fps=max(1, round(fps)),
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=7,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-movflags", "+faststart", "-threads", "1"],
    )
    try:
        writer.send(None)
        for picture in pictures:
            writer.send(picture)
        writer.close()
        os.replace(stage, target)
    except BaseException:
        writer.close()
        stage.unlink(missing_ok=True)
        raise
    return target


def draw_filmstrip(rollout: Rollout, *, n_frames: int = 8, columns: int = 4) -> bytes:
    """Return a PNG with pictures evenly spread over an episode, each with its step.

    Args:
        rollout: an episode with pictures.
        n_frames: pictures to show, first and last included, at least 1.
        columns: pictures per row.

    Raises:
        UsageError: for an episode without pictures.
    """
    from genpolicy.evaluation.plot_style import LIGHT, WIDTH, add_title, new_figure, png

    chosen = _spread(rollout.frames, n_frames)
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    height, width = next(iter(chosen.values())).shape[:2]
    side = WIDTH / 4
    figure = new_figure(side * columns, (side * height / width + 0.22) * rows + 0.25, LIGHT)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (step, frame) in zip(axes, chosen.items(), strict=False):
        axis.imshow(frame, interpolation="nearest")
        add_title(axis, f"step {step}", LIGHT)
    record = rollout.record
    outcome = "success" if record.metrics.get("success", 0.0) > 0.0 else "no success"
    title = ", ".join([f"seed {record.seed}", outcome, f"{record.n_steps} steps", *record.tags])
    figure.suptitle(title, fontsize=9, color=LIGHT.ink)
    return png(figure)


def _spread(frames: Mapping[int, np.ndarray], n: int) -> dict[int, np.ndarray]:
    if not frames or n < 1:
        raise UsageError(
            f"draw_filmstrip: got {len(frames)} pictures and n_frames {n}; replay the episode "
            "with frame_every=1 or more"
        )
    steps = list(frames)
    picked = np.unique(np.linspace(0, len(steps) - 1, min(n, len(steps))).round().astype(int))
    return {steps[i]: frames[steps[i]] for i in picked}
