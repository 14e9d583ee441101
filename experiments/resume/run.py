"""Kill a training with SIGKILL at random moments, resume it each time, compare the results.

    python experiments/resume/run.py --kills 20 --seed 0 --out runs/resume

The run saves every 10 steps, so that many kills fall into a save. Both runs are started by the
command line; weights, training state and metrics have to be equal byte for byte at the end.
"""

import argparse
import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from genpolicy.files import sha256_of

STEPS = 3000
FILES = ("last/ema.safetensors", "last/raw.safetensors", "metrics.jsonl")


def command(data: Path, run: Path) -> list[str]:
    """Return the training command of a run."""
    return [
        *(sys.executable, "-m", "genpolicy", "train", "experiment=maze2d_umaze_flow"),
        *(f"data.path={data}", f"run_dir={run}", f"trainer.max_steps={STEPS}", "save.every=10"),
        *("policy.network.width=64", "policy.network.dropout=0.1", "data.batch_size=64"),
        *("trainer.precision=32-true", "trainer.n_threads=1", "logger=none"),
    ]


def progress(run: Path) -> int:
    """Return how many metric lines the run has written."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def staging(run: Path) -> bool:
    """Return whether a half-written folder or file lies in the run."""
    return any(run.rglob(".staging-*"))


def main() -> None:
    """Run the experiment and write results.csv beside this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/resume"))
    options = parser.parse_args()
    out, rng = options.out.resolve(), random.Random(options.seed)
    data = out / "maze2d-umaze.hdf5"
    make = ["data", "make", "maze2d-umaze", "n=5000", f"path={data}"]
    subprocess.run([sys.executable, "-m", "genpolicy", *make], check=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command(data, out / "whole"), check=True, **quiet)
    killed, rows, begin = out / "killed", [], command(data, out / "killed")
    while len(rows) < options.kills:
        before = progress(killed)
        child = subprocess.Popen(begin, **quiet)
        while progress(killed) <= before and child.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 1.5))
        if child.poll() is not None:
            raise SystemExit(f"the run ended with {child.returncode} after {len(rows)} kills")
        child.send_signal(signal.SIGKILL)
        child.wait()
        rows.append({"kill": len(rows) + 1, "lines": progress(killed), "in_save": staging(killed)})
        print(rows[-1], flush=True)
        begin = [sys.executable, "-m", "genpolicy", "train", f"resume={killed}"]
    subprocess.run(begin, check=True, **quiet)
    equal = all(sha256_of(out / "whole" / f) == sha256_of(killed / f) for f in FILES)
    n_in_save = sum(r["in_save"] for r in rows)
    print(f"{len(rows)} kills, {n_in_save} in a save; equal: {equal}")
    with open(Path(__file__).parent / "results.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=["kill", "lines", "in_save", "final_equal"])
        writer.writeheader()
        writer.writerows({**row, "final_equal": equal} for row in rows)
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
