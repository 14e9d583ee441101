#!/usr/bin/env bash
# Needs the compiled operators (make ext) and diffusers; one quiet core, about ten minutes.
set -euo pipefail
export OMP_NUM_THREADS=1
taskset -c 0 python experiments/speed/mlp.py
taskset -c 0 python experiments/speed/unet.py
python experiments/speed/precision.py
