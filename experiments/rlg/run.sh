#!/usr/bin/env bash
# Guidance over its scale on maze2d-umaze (about 30 minutes of one core), and on Gaussians.
set -euo pipefail
python experiments/rlg/run.py --episodes 100 --seeds 0 1 2
python experiments/rlg/gaussian.py
