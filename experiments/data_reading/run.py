"""How much faster are batches read than training uses them up, and how much memory do they take?

    python experiments/data_reading/run.py [--file FILE]

Alternating in one process: batches of windows from a robomimic file of 200 demonstrations, and bare
training steps of the small preset (forward, backward, clipping, optimizer) on a batch in memory.
Without --file the file holds random numbers in the shapes of Square's demonstrations. Memory: the
highest sum of allocations while the file is read, against the size of the arrays.
"""

import argparse
import csv
import runpy
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch

from genpolicy.cli.compose_config import compose_config
from genpolicy.data.batches import BatchStream
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.data.registry import load_dataset
from genpolicy.data.robomimic_file import Demo, write_robomimic
from genpolicy.robomimic_tasks import robomimic_task

HERE = Path(__file__).parent
STEP = runpy.run_path(str(HERE.parent / "training_profile" / "run.py"))["bare"]
WIDTHS = (128, 256, 512)


def random_file(path: Path) -> Path:
    """Write 200 demonstrations of 100 to 160 steps with random content."""
    rng = np.random.default_rng(0)
    task = robomimic_task("square")
    sizes = {"object": task.object_dim, "robot0_eef_pos": 3, "robot0_eef_quat": 4}
    sizes |= {"robot0_gripper_qpos": 2, "robot0_joint_pos": 7}

    def demo(n: int) -> Demo:
        obs = {key: rng.standard_normal((n, size)) for key, size in sizes.items()}
        actions = rng.uniform(-1, 1, (n, 7))
        states = rng.standard_normal((n, 45))
        return Demo(actions=actions, obs=obs, next_obs=obs, states=states, rewards=np.zeros(n))

    lengths = rng.integers(100, 160, 200)
    return write_robomimic(path, map(demo, lengths.tolist()), env_args=task.env_args())


def memory(path: str) -> float:
    """Return the highest sum of allocations over the size of the arrays."""
    load_dataset("robomimic/square", path)  # imports
    tracemalloc.start()
    episodes = load_dataset("robomimic/square", path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = episodes.actions.nbytes + sum(value.nbytes for value in episodes.obs.values())
    return peak / size


def reading(config: dict, n_batches: int) -> float:
    """Return seconds per batch."""
    data = WindowDataModule(**config["data"], seed=0)
    data.setup("fit")
    size = config["data"]["batch_size"]
    stream = iter(BatchStream(data.train_windows, batch_size=size, seed=0))
    times = []
    for _ in range(n_batches):
        begin = time.perf_counter()
        next(stream)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Measure and write results.csv beside this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or random_file(Path(folder) / "random.hdf5")
        peak = memory(str(file))
        for width in WIDTHS:
            config = compose_config(
                "train",
                [
                    "experiment=robomimic_square_flow",
                    "data=robomimic",
                    f"data.path={file}",
                    f"policy.network.width={width}",
                ],
            )
            pairs = [
                (reading(config, 5 * options.steps), STEP(config, options.steps))
                for _ in range(options.rounds)
            ]
            ratios = [step / read for read, step in pairs]
            rows.append(
                {
                    "width": width,
                    "batch_size": config["data"]["batch_size"],
                    "reading_over_training": f"{statistics.median(ratios):.1f}",
                    "lowest": f"{min(ratios):.1f}",
                    "highest": f"{max(ratios):.1f}",
                    "rounds": options.rounds,
                    "peak_over_arrays": f"{peak:.2f}",
                    "torch": torch.__version__,
                }
            )
            print(rows[-1], flush=True)
    with open(HERE / "results.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
