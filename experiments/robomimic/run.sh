#!/usr/bin/env bash
# Needs robosuite: pip install 'genpolicy[robosuite]'. Every step is skipped where its result exists.
set -euo pipefail
runs=${RUNS:-runs/robomimic}
mkdir -p "$runs"

data() { [ -f "$runs/$1.hdf5" ] || genpolicy data make "robomimic/$1" n_demos=200 seed=0 path="$runs/$1.hdf5"; }
train() {  # task class [settings]; the class may have a suffix, "flow-small"
  [ -d "$runs/$1-$2/last" ] || genpolicy train "experiment=robomimic_$1_${2%-*}" data.path="$runs/$1.hdf5" \
    run_dir="$runs/$1-$2" seed=0 trainer.n_threads=1 save.keep=all "${@:3}"
}
pairs=()
report() {  # task class step
  local out="$runs/$1-$2/evaluations/report-$3"
  [ -f "$out/result.json" ] || genpolicy evaluate n_episodes=100 n_envs=10 first_seed=100000 \
    checkpoint="$runs/$1-$2/checkpoints/$(printf 'step-%08d' "$3")" task="robomimic/$1" out="$out"
  pairs+=("$1 $2@$3=$out/result.json")
}
small=(policy.network.width=256 data.batch_size=128)

data lift
train lift flow
report lift flow 10000
report lift flow 5000
train lift diffusion "${small[@]}" trainer.max_steps=6000 save.every=3000
report lift diffusion 6000
train lift consistency algorithm.teacher="$runs/lift-flow/last" data.batch_size=128 trainer.max_steps=4000 save.every=4000
report lift consistency 4000
data can
train can flow-small "${small[@]}" trainer.max_steps=8000 save.every=4000
report can flow-small 8000
train can flow trainer.max_steps=20000 save.every=10000
report can flow 20000
train can diffusion trainer.max_steps=16000 save.every=8000
report can diffusion 16000
data square
train square flow trainer.max_steps=20000 save.every=10000
report square flow 20000
train square diffusion trainer.max_steps=16000 save.every=8000
report square diffusion 16000
python experiments/collect.py experiments/robomimic "${pairs[@]}"
