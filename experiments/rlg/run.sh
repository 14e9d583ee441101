#!/usr/bin/env bash
# Guidance over its scale on maze2d-umaze (about 15 minutes of one core), and on Gaussians.
set -euo pipefail
python experiments/rlg/run.py --episodes 100 --seed 0
python experiments/rlg/gaussian.py
