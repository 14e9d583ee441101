#!/usr/bin/env bash
# Needs the Push-T demonstrations (genpolicy data get pusht, or GENPOLICY_DATA).
set -euo pipefail
genpolicy train experiment=pusht_flow seed=0 trainer.n_threads=1 save.keep=all
genpolicy train experiment=pusht_diffusion seed=0 trainer.n_threads=1 save.keep=all
genpolicy train experiment=pusht_consistency seed=0 trainer.n_threads=1 save.keep=all \
  algorithm.teacher=runs/pusht_flow/seed-0/last
pairs=()
evaluate() {  # policy step
  local run="runs/pusht_$1/seed-0"
  local step; step=$(printf 'step-%08d' "$2")
  local out="$run/evaluations/report-$2"
  [ -f "$out/result.json" ] || genpolicy evaluate checkpoint="$run/checkpoints/$step" \
    n_episodes=100 first_seed=100000 n_envs=50 out="$out"
  pairs+=("$1@$2=$out/result.json")
}
for step in 20000 25000 30000; do evaluate flow $step; evaluate diffusion $step; done
evaluate consistency 10000
python experiments/collect.py experiments/pusht "${pairs[@]}"
