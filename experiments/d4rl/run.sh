#!/usr/bin/env bash
# Needs the files of door-human-v0 and kitchen-complete below GENPOLICY_DATA, and in POLICIES the
# actors that the recipes of genpolicy.d4rl_tasks name. Every step is skipped where its result exists;
# `run.sh collect` writes results.csv from what there is. LOCK="flock FILE" shares a machine.
set -euo pipefail
runs=${RUNS:-runs/d4rl}
policies=${POLICIES:-$runs/policies}
lock=${LOCK:-}
only=${1:-}
mkdir -p "$runs"
small=(policy.network.width=256 data.batch_size=128 trainer.n_threads=1 seed=0)

data() {  # robot
  [ -f "$runs/$1-medium-expert.hdf5" ] || $lock genpolicy data make "d4rl/$1-medium-expert" \
    policies="$policies" n=200000 seed=0 path="$runs/$1-medium-expert.hdf5"
}
train() {  # task method steps [settings]; the method may have a suffix, "flow-long"
  [ -d "$runs/$1-$2/last" ] || $lock genpolicy train "experiment=d4rl_${1//-/_}" "method=${2%-*}" \
    run_dir="$runs/$1-$2" trainer.max_steps="$3" save.every="$3" "${small[@]}" "${@:4}"
}
pairs=()
report() {  # task method steps [evaluation task]
  local task=${4:-$1}
  local out="$runs/$1-$2/evaluations/$task" settings=()
  [ "${2%-*}" != diffusion ] || settings=(sampler.rule=ddim sampler.n_steps=16)
  [ ! -f "$out/records.jsonl" ] || settings+=(resume=true)  # one that was stopped goes on
  [ -n "$only" ] || [ -f "$out/result.json" ] || $lock genpolicy evaluate n_episodes=100 n_envs=20 \
    first_seed=100000 checkpoint="$runs/$1-$2/last" task="d4rl/$task" out="$out" "${settings[@]}"
  [ ! -f "$out/result.json" ] || pairs+=("$2@$3=$out/result.json")
}
bc() {  # task method steps [settings]
  [ -n "$only" ] || train "$@"
  report "$1" "$2" "$3"
  [ "$1" != door-human ] || report "$1" "$2" "$3" door-human-longhorizon
}

[ -n "$only" ] || for robot in hopper halfcheetah walker2d; do data "$robot"; done
bc kitchen-complete flow 5000
bc door-human flow 4000
bc hopper-medium-expert flow 5000 data.path="$runs/hopper-medium-expert.hdf5"
bc kitchen-complete diffusion 5000
bc door-human diffusion 4000
bc kitchen-complete distilled 2500 algorithm.teacher="$runs/kitchen-complete-flow/last"
bc door-human distilled 2000 algorithm.teacher="$runs/door-human-flow/last"
bc hopper-medium-expert diffusion 5000 data.path="$runs/hopper-medium-expert.hdf5"
for robot in halfcheetah walker2d; do
  for method in flow diffusion; do
    bc "$robot-medium-expert" "$method" 5000 data.path="$runs/$robot-medium-expert.hdf5"
  done
done
for robot in halfcheetah hopper walker2d; do  # 6 times as many windows
  for method in flow diffusion; do
    bc "$robot-medium-expert" "$method-long" 15000 data.batch_size=256 \
      data.path="$runs/$robot-medium-expert.hdf5"
  done
done
python experiments/collect.py experiments/d4rl "${pairs[@]}"
python experiments/d4rl/behavior.py "$runs"/*-medium-expert.hdf5
