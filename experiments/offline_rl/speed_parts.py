"""What a training step of Consistency-AC and of Diffusion-QL is made of.

    python experiments/offline_rl/speed_parts.py DATA.hdf5 [--rounds 20] [--batch 256]

The cases of ``speed.py``, taken apart: each part runs alone, with its own backward pass, parts and
cases in alternation on one thread. Times are those of the processor (``time.thread_time``), which
other work on the machine does not lengthen. Writes speed_parts.csv: median milliseconds of each
part with the quartiles over rounds, and the products of matrices it is made of, in forward passes
of the policy's network on one batch (a twin critic's forward pass counts 2, a backward pass twice
its forward pass, or once where only inputs get a gradient).
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from speed import CASES, NETWORKS, case_of

from genpolicy.algorithms.common import draw_chunks
from genpolicy.algorithms.critics import bellman_loss, improve, value_of_next
from genpolicy.training.callbacks import ClipGradients

HERE = Path(__file__).parent


def parts_of(module, batch):
    """Return the parts of a step: name to a function, and their products."""
    generator = torch.Generator().manual_seed(0)
    n = module.policy.nfe
    is_consistency = type(module).__name__ == "ConsistencyAC"
    optimizer = module.configure_optimizers()["optimizer"]
    clip = ClipGradients(1.0)
    clip.on_fit_start(None, module)
    following = torch.zeros(len(batch["reward"]))

    def target():
        value_of_next(
            module.critic_target.of(module.critic),
            module.policy,
            module.policy_target.of(module.denoiser),
            batch,
            generator,
        )

    def critics():
        bellman_loss(module.critic, batch, following)[0].backward()

    def imitation():
        module.loss(batch, generator)[0].backward()

    def policy():
        cond = module.policy.encode(batch["obs"])
        chunk = draw_chunks(module.policy, module.denoiser, cond, generator)
        improve(module.critic, batch, chunk, generator).backward()

    def averages():
        module.critic_target.update(module.critic)
        module.policy_target.update(module.denoiser)

    def step():
        clip.on_before_optimizer_step(None, module, optimizer)
        optimizer.step()

    return {
        "target: policy's chain and critics": (target, n + 2),
        "critics: loss and gradient": (critics, 6),
        "imitation: loss and gradient": (imitation, 4 if is_consistency else 3),
        "chain and value: loss and gradient": (policy, 3 * n + 3),
        "averages": (averages, 0),
        "clipping and optimizer": (step, 0),
    }


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for network in NETWORKS:
        cases = {
            name: parts_of(*case_of(algorithm, network, given, options.data, options.batch))
            for name, (algorithm, given) in CASES.items()
        }
        times = {(case, part): [] for case, parts in cases.items() for part in parts}
        for number in range(options.rounds + 3):
            for (case, part), found in times.items():
                start = time.thread_time()
                cases[case][part][0]()
                if number >= 3:
                    found.append(1e3 * (time.thread_time() - start))
        for case, parts in cases.items():
            medians = {part: float(np.median(times[case, part])) for part in parts}
            for part, (_, products) in parts.items():
                low, high = np.quantile(times[case, part], [0.25, 0.75])
                rows.append(
                    {
                        "policy_network": network,
                        "case": case,
                        "part": part,
                        "products": products,
                        "median_cpu_ms": f"{medians[part]:.2f}",
                        "quartile_low": f"{low:.2f}",
                        "quartile_high": f"{high:.2f}",
                        "share": f"{medians[part] / sum(medians.values()):.3f}",
                        "rounds": options.rounds,
                        "batch_size": options.batch,
                        "torch": torch.__version__,
                    }
                )
    with open(HERE / "speed_parts.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
