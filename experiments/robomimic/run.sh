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
pick() {  # task class step: settings of acting, on other seeds than the reported ones
  local scale steps
  for scale in 1.0 0.5 0.0; do
    for steps in 8 4; do
      genpolicy evaluate n_episodes=20 n_envs=10 first_seed=200008 task="robomimic/$1" \
        checkpoint="$runs/$1-$2/checkpoints/$(printf 'step-%08d' "$3")" sampler.init_scale="$scale" \
        n_action_steps="$steps" out="$runs/$1-$2/evaluations/pick-$scale-$steps"
    done
  done
}
short=(data.batch_size=128 save.every=500)
# As the presets were before: what was executed, quaternions, all of the noise, 8 steps without a look.
plain=(data=robomimic policy.network.width=512 policy.network.dropout=0.1 policy.sampler.init_scale=1.0)

for task in lift can square; do data "$task"; done
train square flow data.action_normalizer=min_max save.every=2500
pick square flow 10000
report square flow 10000
train square diffusion data.action_normalizer=min_max save.every=2500
report square diffusion 10000
train can flow trainer.max_steps=2500 "${short[@]}"
report can flow 2500
train can diffusion trainer.max_steps=2500 "${short[@]}"
report can diffusion 2500
train lift flow trainer.max_steps=2500 "${short[@]}"
report lift flow 2500
train lift diffusion trainer.max_steps=1500 "${short[@]}"
report lift diffusion 1500
train square consistency data.action_normalizer=min_max "${short[@]}" trainer.max_steps=1500 \
  algorithm.teacher="$runs/square-flow/checkpoints/step-00010000"
report square consistency 1500

# robosuite's human demonstrations: 8 and 7 episodes.
if [ -n "${GENPOLICY_DATA:-}" ]; then
  for task in lift two_arm_handover; do
    [ -d "$runs/human-$task/last" ] || genpolicy train experiment=robomimic_lift_flow data=robomimic \
      name="human_$task" data.task="robomimic/$task" data.horizon=12 data.n_action_steps=4 data.batch_size=128 \
      data.path="$GENPOLICY_DATA/robosuite_human_demos/${task}_human_low_dim.hdf5" \
      "data.reader_options={quaternions: rotation_6d}" run_dir="$runs/human-$task" seed=0 \
      trainer.n_threads=1 trainer.max_steps=400 save.every=400
  done
  [ -f "$runs/human-lift/evaluations/report/result.json" ] || genpolicy evaluate n_episodes=100 n_envs=4 \
    checkpoint="$runs/human-lift/last" task=robomimic/lift first_seed=100000 out="$runs/human-lift/evaluations/report"
fi

if [ -n "${PLAIN:-}" ]; then  # hours
  train lift flow-plain "${plain[@]}" trainer.max_steps=10000 save.every=5000
  report lift flow-plain 10000
  report lift flow-plain 5000
  train lift diffusion-plain "${plain[@]}" policy.network.width=256 data.batch_size=128 \
    trainer.max_steps=6000 save.every=3000
  report lift diffusion-plain 6000
  train lift consistency-plain data=robomimic policy.network.width=512 data.batch_size=128 \
    algorithm.teacher="$runs/lift-flow-plain/last" trainer.max_steps=4000 save.every=4000
  report lift consistency-plain 4000
  train can flow-plain "${plain[@]}" trainer.max_steps=20000 save.every=10000
  report can flow-plain 20000
  train can diffusion-plain "${plain[@]}" trainer.max_steps=16000 save.every=8000
  report can diffusion-plain 16000
  train square flow-plain "${plain[@]}" trainer.max_steps=20000 save.every=10000
  report square flow-plain 20000
  train square diffusion-plain "${plain[@]}" trainer.max_steps=16000 save.every=8000
  report square diffusion-plain 16000
fi
python experiments/collect.py experiments/robomimic "${pairs[@]}"
