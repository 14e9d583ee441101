#!/usr/bin/env bash
# COCOA on and off, on IQL (model-free) and MOPO (model-based), on generated maze2d-umaze and
# maze2d-medium data without the goal as an observation. One training seed, 100 episodes each on seeds
# 1000-1099. RUNS, TASKS and SEEDS may be set; what exists is used.
set -euo pipefail
RUNS=${RUNS:-runs/cocoa}
TASKS=${TASKS:-umaze medium}
SEEDS=${SEEDS:-0}
here=$(dirname "$0")
sizes="n_models=3 dynamics_width=64 dynamics_layers=2"
encoder=$(for s in $sizes; do echo "policy.encoder.$s"; done)

trained() { # run, experiment, task, seed, updates, overrides
  local run=$1 experiment=$2 task=$3 seed=$4 updates=$5
  shift 5
  [ -e "$RUNS/$run/last" ] || genpolicy train experiment="maze2d_umaze_$experiment" seed="$seed" \
    data.task="maze2d-$task" data.path="$RUNS/$task.hdf5" data.val_ratio=0.002 data.batch_size=64 run_dir="$RUNS/$run" \
    trainer.max_steps="$updates" save.every=20000 trainer.n_threads=1 logger=none "$@"
}

compared() { # run and what follows as above; with an evaluation
  trained "$@"
  local out="$RUNS/evaluations/$1"
  [ -e "$out/result.json" ] || genpolicy evaluate checkpoint="$RUNS/$1" n_episodes=100 n_envs=100 \
    out="$out"
}

for task in $TASKS; do
  [ -e "$RUNS/$task.hdf5" ] || genpolicy data make "maze2d-$task" n=200000 seed=0 path="$RUNS/$task.hdf5"
  for seed in $SEEDS; do
    anchors="$RUNS/$task-anchors-$seed"
    trained "$task-anchors-$seed" anchor_seeking "$task" "$seed" 1500 algorithm.n_dynamics_steps=1000
    compared "$task-iql-$seed" iql "$task" "$seed" 3000
    # shellcheck disable=SC2086
    compared "$task-iql-cocoa-$seed" iql "$task" "$seed" 3000 cocoa=iql cocoa.anchors="$anchors" $encoder
  done
done
for task in $TASKS; do
  for seed in $SEEDS; do
    anchors="$RUNS/$task-anchors-$seed"
    model="algorithm.dynamics_from=$anchors"
    compared "$task-mopo-$seed" mopo "$task" "$seed" 1500 "$model"
    # shellcheck disable=SC2086
    compared "$task-mopo-cocoa-$seed" mopo "$task" "$seed" 1500 "$model" cocoa=twin \
      cocoa.anchors="$anchors" critic.q.layer_norm=true $encoder
  done
done

pairs=()
for run in "$RUNS"/evaluations/*; do
  name=$(basename "$run")
  pairs+=("$(echo "$name" | sed "s/-[0-9]\+$//; s/^[a-z]*-//")=$run/result.json")
done
python experiments/collect.py "$here" "${pairs[@]}"
