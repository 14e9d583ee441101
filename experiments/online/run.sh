#!/usr/bin/env bash
# Offline-to-online on generated maze2d-umaze data: one training seed (SEEDS='0 1 2' for three),
# trained offline, then (a) with interaction and (b) with as many further updates on the data set alone.
# 100 episodes each on seeds 1000-1099. RUNS, DATA, SEEDS and ALGORITHMS may be set; what exists is used.
set -euo pipefail
RUNS=${RUNS:-runs/online}
DATA=${DATA:-runs/rlg/seed-0/data.hdf5}
SEEDS=${SEEDS:-0}
ALGORITHMS=${ALGORITHMS:-rebrac}
here=$(dirname "$0")
[ -e "$DATA" ] || genpolicy data make maze2d-umaze n=200000 seed=0 path="$DATA"
DATA=$(realpath "$DATA")

declare -A own=(
  [rebrac]=""
  [consistency_ac]="algorithm.eta=5.0 algorithm.target_rate=0.02 critic.q.layer_norm=true"
)
# A curriculum of noise levels goes on at its end.
declare -A more=([rebrac]="" [consistency_ac]="algorithm.settings.curriculum.total_steps=1")
declare -A names=([rebrac]="ReBRAC" [consistency_ac]="Consistency-AC")
declare -A offline=([rebrac]=5000 [consistency_ac]=4000)

trained() { # run, algorithm, seed, updates, overrides
  local run=$1 algorithm=$2 seed=$3 updates=$4
  shift 4
  # shellcheck disable=SC2086
  [ -e "$RUNS/$run/last" ] || genpolicy train experiment="maze2d_umaze_$algorithm" seed="$seed" \
    data.path="$DATA" data.val_ratio=0.002 run_dir="$RUNS/$run" trainer.max_steps="$updates" \
    save.every=20000 trainer.n_threads=1 logger=none ${own[$algorithm]} "$@"
  local out="$RUNS/evaluations/$run"
  [ -e "$out/result.json" ] || genpolicy evaluate checkpoint="$RUNS/$run" n_episodes=100 n_envs=100 \
    out="$out"
}

pairs=()
for algorithm in $ALGORITHMS; do
  name="${names[$algorithm]}"
  before="${offline[$algorithm]}"
  for seed in $SEEDS; do
    base="$algorithm-$seed"
    trained "$base" "$algorithm" "$seed" "${offline[$algorithm]}"
    # shellcheck disable=SC2086
    trained "$base-online" "$algorithm" "$seed" 3000 online=default online.from="$RUNS/$base" \
      online.warmup_steps=900 online.updates_per_step=0.5 ${more[$algorithm]}
    # shellcheck disable=SC2086
    trained "$base-more" "$algorithm" "$seed" 3000 online=default online.from="$RUNS/$base" \
      online.offline_fraction=1.0 online.warmup_steps=0 online.updates_per_step=1.0e+9 \
      ${more[$algorithm]}
    pairs+=(
      "$name, offline@$before=$RUNS/evaluations/$base/result.json"
      "$name, continued online@$((before + 3000))=$RUNS/evaluations/$base-online/result.json"
      "$name, continued offline@$((before + 3000))=$RUNS/evaluations/$base-more/result.json"
    )
  done
done

python experiments/collect.py "$here" "${pairs[@]}"
