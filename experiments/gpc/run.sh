#!/usr/bin/env bash
# Needs the Push-T demonstrations, both sets (GENPOLICY_DATA), the runs of experiments/pusht/run.sh
# (the early checkpoint) and of experiments/maze2d_umaze/run.sh; for robosuite those of
# experiments/robomimic/run.sh.
set -euo pipefail
runs=runs/gpc
train() { genpolicy train "experiment=$1" name="$2" run_dir="$runs/$2" trainer.n_threads=1 "${@:3}"; }
train pusht_flow half-a seed=0 trainer.max_steps=12000 save.every=6000 "data.episode_range=[0,103]"
train pusht_flow half-b seed=0 trainer.max_steps=12000 save.every=6000 "data.episode_range=[103,206]"
train pusht_flow shifted-same-units seed=0 trainer.max_steps=12000 save.every=6000 \
  data.symmetry=null \
  data.path="$GENPOLICY_DATA/pusht/pusht_keypoint_x356_y356_lowdim.zarr.zip" \
  data.action_normalizer=pusht-flow
train pusht_pixels_flow pixels seed=0 trainer.max_steps=16000 optimizer.lr=5e-4 save.every=4000 \
  save.keep=all
train pusht_flow state seed=0 trainer.max_steps=12000 save.every=6000 data.task=pusht-state
for seed in 1 2; do
  for kind in flow diffusion; do
    train "pusht_$kind" "$kind-$seed" seed="$seed" trainer.max_steps=15000 save.every=5000
  done
done
ln -sfn "$PWD/runs/pusht/flow" "$runs/flow"
for seed in 0 1 2; do ln -sfn "$PWD/runs/demo-seed$seed/runs" "$runs/maze2d-$seed"; done
python experiments/gpc/run.py kinds kinds-1 kinds-2 weak goals goals-there maze2d-0 maze2d-1 maze2d-2 \
  modality state
python experiments/gpc/run.py halves --validation 40

# robosuite: members of two kinds, an early checkpoint (on Lift a short run), one grasp strategy each.
mimic=${MIMIC:-$PWD/runs/robomimic}
for task in lift can square; do
  mkdir -p "$runs/$task"
  for kind in flow diffusion; do ln -sfn "$mimic/$task-$kind/seed-0" "$runs/$task/$kind"; done
  case $task in
    lift) ln -sfn "$mimic/lift-flow-early/seed-0/last" "$runs/lift/flow-weak" ;;
    can) ln -sfn "$mimic/can-flow/seed-0/checkpoints/step-00000500" "$runs/can/flow-weak" ;;
    square) ln -sfn "$mimic/square-flow/seed-0/checkpoints/step-00002500" "$runs/square/flow-weak" ;;
  esac
  for strategy in near far; do
    train "robomimic_${task}_flow" "$task/$strategy" seed=0 data.path="$mimic/$task.hdf5" data.batch_size=128 \
      trainer.max_steps=2500 save.every=2500 +data.reader_options.filter_key="strategy_$strategy"
  done
  python experiments/gpc/run.py "$task-flow-diffusion" "$task-strong-weak" "$task-near-far"
done
