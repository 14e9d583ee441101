"""How long a training step of Consistency-AC takes beside one of Diffusion-QL.

    python experiments/offline_rl/speed.py DATA.hdf5 [--rounds 40] [--batch 256]

Both have the critics that the papers publish (three layers of 256 with Mish), and a policy of the
same ("published"), or the residual network of IDQL (width 256, three blocks, expansion 4), on one
thread. Steps alternate, and times are those of the processor (``time.thread_time``), so that other
work on the machine neither counts nor favours one; a step is loss, backward pass, clipping and
optimizer. Writes speed.csv: median milliseconds, evaluations per action, and the median of the
rounds' ratios with its bootstrap interval and their quartiles.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from genpolicy.cli.compose_config import compose_config
from genpolicy.data.batches import BatchStream
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.training.callbacks import ClipGradients
from genpolicy.training.fit import _build_algorithm, _data_settings

HERE = Path(__file__).parent
CRITIC = ["critic.q.width=256", "critic.q.activation=mish"]
NETWORKS = ("published", "residual")
ONE = ["policy.sampler.n_steps=1", "policy.sampler.times=null"]
CASES = {
    "diffusion_ql, 5 steps": ("diffusion_ql", []),
    "consistency_ac, 2 steps": ("consistency_ac", []),
    "consistency_ac, 1 step": ("consistency_ac", ONE),
}


def case_of(name, network, overrides, data_path, batch_size):
    """Return an algorithm with the wanted networks, and a batch."""
    settings = [f"experiment=maze2d_umaze_{name}", f"data.path={data_path}", *CRITIC, *overrides]
    if network == "published":
        settings += ["policy.network.width=256", "policy.network.activation=mish"]
    config = compose_config("train", settings)
    if network == "residual":
        large = ["network=residual_mlp", "policy.network.width=256", "policy.network.expansion=4"]
        config["policy"]["network"] = compose_config("train", large)["policy"]["network"]
    data = WindowDataModule(**_data_settings(config), seed=0)
    data.setup("fit")
    module = _build_algorithm(config, data, 0)
    return module, BatchStream(data.train_windows, batch_size=batch_size, seed=0).batch(0)


def step_of(*case):
    """Return a function that makes one optimizer step, and the evaluations of an action."""
    module, batch = case_of(*case)
    optimizer = module.configure_optimizers()["optimizer"]
    clip = ClipGradients(1.0)
    clip.on_fit_start(None, module)

    def step():
        loss = module.training_step(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        clip.on_before_optimizer_step(None, module, optimizer)
        optimizer.step()

    return step, module.policy.nfe


def measured(network, options):
    """Return the rows of one policy network."""
    steps = {
        k: step_of(name, network, overrides, options.data, options.batch)
        for k, (name, overrides) in CASES.items()
    }
    times = {name: [] for name in steps}
    for number in range(options.rounds + 3):
        for name, (step, _) in steps.items():
            start = time.thread_time()
            step()
            if number >= 3:
                times[name].append(1e3 * (time.thread_time() - start))
    first = np.array(times["diffusion_ql, 5 steps"])
    rng = np.random.default_rng(0)
    rows = []
    for name, (_, nfe) in steps.items():
        ratio = first / np.array(times[name])
        draws = np.median(rng.choice(ratio, (2000, len(ratio))), axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        rows.append(
            {
                "policy_network": network,
                "case": name,
                "evaluations_per_action": nfe,
                "median_cpu_ms_per_update": f"{statistics.median(times[name]):.1f}",
                "times_faster_than_diffusion_ql": f"{np.median(ratio):.2f}",
                "low": f"{low:.2f}",
                "high": f"{high:.2f}",
                "quartile_low": f"{np.quantile(ratio, 0.25):.2f}",
                "quartile_high": f"{np.quantile(ratio, 0.75):.2f}",
                "rounds": options.rounds,
                "batch_size": options.batch,
                "torch": torch.__version__,
            }
        )
    return rows


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for network in NETWORKS for row in measured(network, options)]
    with open(HERE / "speed.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
