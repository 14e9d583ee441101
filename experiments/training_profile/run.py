"""How much of a training step is the network: forward, backward and optimizer?

    python experiments/training_profile/run.py --steps 300

Two measurements per setting, alternating in one process: the bare step (batch already in memory,
loss forward, backward, clipping, fused AdamW) and the whole run as `genpolicy train` does it (data,
Lightning, averaging, metrics). The share is bare over whole, from medians of rounds.
"""

import argparse
import csv
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch

from genpolicy.algorithms.common import configure_adamw
from genpolicy.cli.compose_config import compose_config
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.generators.maze2d import make_maze2d
from genpolicy.training import fit
from genpolicy.training.callbacks import RecordMetrics

SETTINGS = {
    "width 512, batch 256, bf16": ["policy.network.width=512", "trainer.precision=bf16-mixed"],
    "width 256, batch 256, bf16": ["policy.network.width=256", "trainer.precision=bf16-mixed"],
    "width 256, batch 256, fp32": ["policy.network.width=256", "trainer.precision=32-true"],
}


def bare(config: dict, n_steps: int) -> float:
    """Return seconds per step of the network alone."""
    data = WindowDataModule(**config["data"], seed=0)
    data.setup("fit")
    algorithm = fit._build_algorithm(config, data, 0)
    optimizer = configure_adamw(algorithm, algorithm.optimizer_settings)["optimizer"]
    batch = data.train_windows.gather(torch.arange(config["data"]["batch_size"]))
    generator = torch.Generator().manual_seed(0)
    mixed = config["trainer"]["precision"] == "bf16-mixed"
    times = []
    for _ in range(n_steps):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss, _ = algorithm.loss(batch, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(algorithm.parameters(), 1.0, foreach=True)
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[n_steps // 10 :])


def whole(config: dict) -> float:
    """Return seconds per step of a run, without its start and its save."""
    stamps: list[float] = []
    original = RecordMetrics.on_train_batch_end

    def stamped(self, *arguments):
        original(self, *arguments)
        stamps.append(time.perf_counter())

    RecordMetrics.on_train_batch_end = stamped
    try:
        fit.train(config, progress=False)
    finally:
        RecordMetrics.on_train_batch_end = original
    gaps = [b - a for a, b in itertools.pairwise(stamps)]
    return statistics.median(gaps[len(gaps) // 10 :])


def main() -> None:
    """Measure every setting and write results.csv beside this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = make_maze2d("maze2d-umaze", seed=0, path=Path(folder) / "m.hdf5", n_steps=20000)
        for name, overrides in SETTINGS.items():
            pairs = []
            for i in range(options.rounds):
                config = compose_config(
                    "train",
                    [
                        "experiment=maze2d_umaze_flow",
                        f"data.path={data}",
                        f"run_dir={folder}/{len(rows)}-{i}",
                        f"trainer.max_steps={options.steps}",
                        f"save.every={options.steps}",
                        "trainer.n_threads=1",
                        *overrides,
                    ],
                )
                pairs.append((bare(config, options.steps), whole(config)))
            alone, full = (statistics.median(p) for p in zip(*pairs, strict=True))
            rows.append(
                {
                    "setting": name,
                    "network_share": f"{alone / full:.3f}",
                    "rounds": options.rounds,
                    "steps": options.steps,
                    "torch": torch.__version__,
                }
            )
            print(rows[-1], flush=True)
    with open(Path(__file__).parent / "results.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
