from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from genpolicy.envs.mazes import maze_layout
from genpolicy.errors import UsageError
from genpolicy.evaluation import Interval
from genpolicy.evaluation.action_plots import (
    draw_action_distributions,
    draw_chunk_fan,
    draw_chunk_paths,
)
from genpolicy.evaluation.plot_style import DARK, light_and_dark, png
from genpolicy.evaluation.plots import (
    Curve,
    draw_intervals,
    draw_learning_curves,
    draw_trajectories,
)
from genpolicy.evaluation.probe import sample_chunks

RNG = np.random.default_rng(0)


def test_curves_keep_their_values_and_bands() -> None:
    curves = {
        "flow": Curve([0, 10, 20], [0.1, 0.5, 0.6], [0.0, 0.4, 0.5], [0.2, 0.6, 0.7]),
        "diffusion": Curve(np.arange(30), np.linspace(0, 1, 30)),
    }
    axis = draw_learning_curves(curves, ylabel="success").axes[0]
    assert axis.lines[0].get_ydata().tolist() == [0.1, 0.5, 0.6]
    assert len(axis.collections) == 1
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["flow", "diffusion"]
    assert draw_learning_curves(curves, ylabel="loss", log_y=True).axes[0].get_yscale() == "log"
    with pytest.raises(UsageError, match="'flow' has columns of lengths"):
        draw_learning_curves({"flow": Curve([0, 1], [0.1])}, ylabel="x")
    with pytest.raises(UsageError, match="no curves"):
        draw_learning_curves({}, ylabel="x")


def test_intervals_are_rows_from_the_top() -> None:
    rows = [
        ("a", 0.5, Interval(0.4, 0.6, 0.95, "wilson")),
        ("b", 0.2, Interval(float("nan"), float("nan"), 0.95, "bootstrap percentile")),
    ]
    axis = draw_intervals(rows, xlabel="rate", reference=0.0).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]
    assert [0.4, 0.6] in [[float(x) for x in line.get_xdata()] for line in axis.lines]
    assert len(axis.lines) == 4  # reference, interval, two dots


def test_paths_lie_in_the_maze_as_its_map_shows_it() -> None:
    layout = maze_layout("maze2d-umaze")
    path = np.array([[1.0, 1.0], [1.0, 3.0], [3.0, 3.0]])
    figure = draw_trajectories(layout, {"a": [(path, True)], "b": [(path, False), (path, True)]})
    first, second = figure.axes
    assert first.get_title() == "a\n1 of 1"
    assert second.get_title() == "b\n1 of 2"
    drawn = [line for line in first.lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(drawn[0].get_xydata(), path[:, ::-1])
    assert first.get_ylim()[0] > first.get_ylim()[1]
    walls = [patch for patch in first.patches if isinstance(patch, Rectangle)]
    assert len(walls) == len(layout.walls) == 18
    assert walls[0].get_xy() == (layout.walls[0][2], layout.walls[0][0])
    colors = {line.get_color() for line in second.lines if len(line.get_xdata()) == 3}
    assert len(colors) == 2
    with pytest.raises(UsageError, match="shape"):
        draw_trajectories(layout, {"a": [(np.zeros((3, 4)), True)]})


def test_actions_stand_in_a_grid_of_observations_and_sources() -> None:
    few, many = RNG.normal(size=(50, 2)), RNG.normal(size=(2000, 2))
    figure = draw_action_distributions({"start": {"data": few, "flow": many}, "end": {"flow": few}})
    assert len(figure.axes) == 4
    assert [axis.get_title() for axis in figure.axes] == ["data", "flow", "", ""]
    offsets = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(np.asarray(offsets), few)
    # Hexagons hold every point once.
    assert figure.axes[1].collections[0].get_array().sum() == 2000
    assert len(figure.axes[2].collections) == 0
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    for bad in ({}, {"a": {"data": np.zeros((3, 3))}}, {"a": {"data": np.zeros((0, 2))}}):
        with pytest.raises(UsageError, match="draw_action_distributions"):
            draw_action_distributions(bad)


def test_chunks_are_drawn_over_time_and_in_the_plane() -> None:
    chunks = {"flow": RNG.normal(size=(5, 8, 2)), "data": RNG.normal(size=(3, 8, 2))}
    figure = draw_chunk_fan(chunks, executed=slice(1, 5), names=["x", "y"])
    assert [len(axis.lines) for axis in figure.axes] == [5, 3, 5, 3]
    np.testing.assert_array_equal(figure.axes[2].lines[1].get_ydata(), chunks["flow"][1, :, 1])
    plane = draw_chunk_paths(
        chunks,
        position=np.zeros(2),
        limits=np.array([[0, 0], [10, 10]]),
        background=np.zeros((4, 4, 3), dtype=np.uint8),
    )
    assert [len(axis.lines) for axis in plane.axes] == [6, 4]
    assert plane.axes[0].get_ylim() == (10.0, 0.0)
    with pytest.raises(UsageError, match="one shape"):
        draw_chunk_fan({"a": np.zeros((1, 8, 2)), "b": np.zeros((1, 9, 2))}, executed=slice(0, 2))
    with pytest.raises(UsageError, match="n, horizon, 2"):
        draw_chunk_paths(
            {"a": np.zeros((1, 8, 3))}, position=np.zeros(2), limits=np.array([[0, 0], [1, 1]])
        )


def test_pictures_come_in_the_colours_of_both_schemes() -> None:
    light, dark = light_and_dark(
        lambda theme: draw_learning_curves({"a": Curve([0, 1], [0, 1])}, ylabel="y", theme=theme)
    )
    corner = imread(io.BytesIO(dark))[0, 0, :3]
    assert "#" + "".join(f"{round(255 * c):02x}" for c in corner) == DARK.background
    assert imread(io.BytesIO(light))[0, 0, :3].tolist() == [1.0, 1.0, 1.0]
    assert png(Figure(figsize=(1, 1))).startswith(b"\x89PNG")


def test_imports_load_nothing_heavy() -> None:
    code = """
import sys
import genpolicy.evaluation
heavy = ("matplotlib", "lightning", "mujoco", "pymunk", "pygame")
assert not [name for name in heavy if name in sys.modules]
import genpolicy.evaluation.plots, genpolicy.evaluation.action_plots
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_samples_at_one_observation(walk: Any) -> None:
    obs = {"state": torch.ones(1, 2, 3)}
    chunks = sample_chunks(walk.policy(), obs, n=7, seed=1)
    assert chunks.shape == (7, 6, 2)
    assert len(np.unique(chunks[:, 0, 0])) == 7
    np.testing.assert_array_equal(chunks[:3], sample_chunks(walk.policy(), obs, n=3, seed=1))
    with pytest.raises(UsageError, match="one row"):
        sample_chunks(walk.policy(), {"state": torch.ones(2, 2, 3)}, n=1)
