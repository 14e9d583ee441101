#!/usr/bin/env bash
# Needs the compiled operators (make ext) and diffusers; one quiet core, about ten minutes.
set -euo pipefail
export OMP_NUM_THREADS=1
taskset -c 0 python experiments/speed/mlp.py
taskset -c 0 python experiments/speed/unet.py
taskset -c 0 python experiments/speed/peers.py lerobot    # beside this torch
taskset -c 0 python experiments/speed/peers.py robomimic  # praxis-robomimic, beside this torch
OMP_NUM_THREADS=2 python experiments/speed/scaling.py
OMP_NUM_THREADS=2 python experiments/speed/mlp.py --threads 2 --steps 20 --out experiments/speed/threads.csv
python experiments/speed/precision.py
