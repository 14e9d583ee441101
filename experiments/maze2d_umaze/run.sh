#!/usr/bin/env bash
# Three training seeds, each with its own data; 100 episodes on seeds 1000-1099 per policy.
set -euo pipefail
for seed in 0 1 2; do
  genpolicy demo out="runs/demo-seed$seed" seed="$seed" max_steps=10000 max_distill_steps=6000
done
pairs=()
for seed in 0 1 2; do
  for policy in diffusion flow consistency controller random; do
    pairs+=("$policy@$seed=runs/demo-seed$seed/evaluations/$policy.jsonl")
  done
done
python experiments/collect.py experiments/maze2d_umaze "${pairs[@]}"
