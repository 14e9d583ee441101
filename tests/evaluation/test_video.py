from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genpolicy.errors import UsageError
from genpolicy.evaluation import evaluate, replay
from genpolicy.evaluation.video import draw_filmstrip, record_videos, write_mp4

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="films need imageio-ffmpeg")


def read_mp4(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]


def test_films_show_the_episodes_of_the_evaluation(walk: Any, tmp_path: Path) -> None:
    task = walk.task(steps_per_second=50.0)
    result = evaluate(walk.policy(), task, seeds=[4, 9], progress=False)
    films = record_videos(
        walk.policy(), task, seeds=[9, 4], folder=tmp_path / "films", expected=result.records
    )
    assert [film.record for film in films] == [result.records[1], result.records[0]]
    for film in films:
        meta, frames = read_mp4(film.mp4)
        assert meta["fps"] == 25.0
        assert len(frames) == film.record.n_steps // 2 + 1
        # 31 x 47 pixels, enlarged nine times, padded to even sides.
        assert meta["size"] == (424, 280)
        assert film.filmstrip.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == [
        "seed-4.mp4",
        "seed-4.png",
        "seed-9.mp4",
        "seed-9.png",
    ]


def test_a_film_of_another_episode_is_refused(walk: Any, tmp_path: Path) -> None:
    result = evaluate(walk.policy(), walk.task(), seeds=[4], progress=False)
    with pytest.raises(UsageError, match="not the recorded episode"):
        record_videos(
            walk.policy(scale=0.5),
            walk.task(),
            seeds=[4],
            folder=tmp_path,
            expected=result.records,
        )
    assert list(tmp_path.iterdir()) == []


def test_pictures_arrive_in_the_film(tmp_path: Path) -> None:
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    frames = [np.full((256, 256, 3), c, dtype=np.uint8) for c in colors]
    _, shown = read_mp4(write_mp4(tmp_path / "a.mp4", frames, fps=10))
    assert len(shown) == 3
    for picture, color in zip(shown, colors, strict=True):
        assert np.abs(picture.mean(axis=(0, 1)) - color).max() < 12


@pytest.mark.parametrize(
    "frames",
    [[], [np.zeros((8, 8), dtype=np.uint8)], [np.zeros((8, 8, 3), dtype=np.float32)]],
)
def test_what_is_no_picture_is_refused(frames: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="picture"):
        write_mp4(tmp_path / "a.mp4", frames, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_the_strip_spans_the_episode(walk: Any) -> None:
    from matplotlib.image import imread

    rollout = replay(walk.policy(), walk.task(), seeds=[9], frame_every=1)[0]
    wide = imread(io.BytesIO(draw_filmstrip(rollout, n_frames=5, columns=5)))
    wrapped = imread(io.BytesIO(draw_filmstrip(rollout, n_frames=5)))
    assert wide.shape[1] > wrapped.shape[1]
    assert wide.shape[0] < wrapped.shape[0]
    with pytest.raises(UsageError, match="got 0 pictures"):
        draw_filmstrip(dataclasses.replace(rollout, frames={}))
