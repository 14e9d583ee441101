#!/usr/bin/env bash
# Needs the Push-T demonstrations and the runs of experiments/pusht/run.sh (for the early checkpoint).
set -euo pipefail
runs=runs/gpc
train() { genpolicy train experiment=pusht_flow name="$1" run_dir="$runs/$1" seed=0 \
  trainer.n_threads=1 trainer.max_steps=12000 save.every=6000 "${@:2}"; }
train half-a "data.episode_range=[0,103]"
train half-b "data.episode_range=[103,206]"
ln -sfn "$PWD/runs/pusht/flow" "$runs/flow"
python experiments/gpc/run.py kinds weak
python experiments/gpc/run.py halves --validation 40
