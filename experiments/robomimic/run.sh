#!/usr/bin/env bash
# Needs robosuite: pip install 'genpolicy[robosuite]'. Every step is skipped where its result exists.
set -euo pipefail
runs=${RUNS:-runs/robomimic}
mkdir -p "$runs"

data() { [ -f "$runs/$1.hdf5" ] || genpolicy data make "robomimic/$1" n_demos=200 seed=0 path="$runs/$1.hdf5"; }
at() { printf '%s/%s-%s/seed-%s/checkpoints/step-%08d' "$runs" "$1" "$2" "$3" "$4"; }  # task class seed step
train() {  # task class seed [settings]; the class may have a suffix, "flow-plain"
  local run="$runs/$1-$2/seed-$3"
  [ ! -f "$run/done" ] || return 0
  if [ -d "$run/state" ]; then genpolicy train resume="$run"; else
    genpolicy train "experiment=robomimic_$1_${2%-*}" data.path="$runs/$1.hdf5" run_dir="$run" seed="$3" \
      trainer.n_threads=1 save.keep=all "${@:4}"
  fi
  touch "$run/done"
}
evaluate() {  # folder [settings]; one that was stopped goes on
  local more=()
  [ ! -f "$1/records.jsonl" ] || more=(resume=true)
  [ -f "$1/result.json" ] || genpolicy evaluate n_envs=10 out="$1" "${@:2}" "${more[@]}"
}
pairs=() looks=()
report() {  # task class seed step
  local out="$runs/$1-$2/seed-$3/evaluations/report-$4"
  evaluate "$out" n_episodes=100 first_seed=100000 checkpoint="$(at "$@")" task="robomimic/$1"
  pairs+=("$1 $2@$4=$out/result.json")
}
look() {  # name task class seed step [settings]: 20 episodes on other seeds than the reported ones
  local out="$runs/$2-$3/seed-$4/evaluations/$1"
  evaluate "$out" n_episodes=20 first_seed=200008 checkpoint="$(at "${@:2:4}")" task="robomimic/$2" "${@:6}"
  looks+=("$2 $3 $1@$5=$out/result.json")
}
short=(data.batch_size=128 trainer.max_steps=2500 save.every=500)
long=(data.action_normalizer=min_max trainer.max_steps=10000 save.every=2500)
# As the presets were before: what was executed, quaternions, all of the noise, 8 steps without a look.
plain=(data=robomimic policy.network.width=512 policy.network.dropout=0.1 policy.sampler.init_scale=1.0)

for task in lift can square; do data "$task"; done
policies() {  # seed
  local seed="$1" task class
  for task in lift can; do
    for class in flow diffusion; do
      train "$task" "$class" "$seed" "${short[@]}"
      report "$task" "$class" "$seed" 2500
    done
    train "$task" consistency "$seed" "${short[@]}" algorithm.teacher="$(at "$task" flow "$seed" 2500)"
    report "$task" consistency "$seed" 2500
  done
  for class in flow diffusion; do
    train square "$class" "$seed" "${long[@]}"
    report square "$class" "$seed" 10000
  done
  train square consistency "$seed" "${short[@]}" data.action_normalizer=min_max \
    algorithm.teacher="$(at square flow "$seed" 10000)"
  report square consistency "$seed" 2500
}

policies 0

# The weaker parents, and how success grows with updates; settings of acting on Square.
for step in 500 1000 1500; do
  for task in lift can; do look "curve-$step" "$task" flow 0 "$step"; done
done
for step in 2500 5000 7500; do look "curve-$step" square flow 0 "$step"; done
for scale in 1.0 0.5 0.0; do
  for steps in 8 4; do
    look "scale-$scale-steps-$steps" square flow 0 10000 sampler.init_scale="$scale" n_action_steps="$steps"
  done
done

# Noise of the consistency policies: chosen on Can and Lift on other seeds, then on the reported ones.
noisy() {  # task noise folder episodes first_seed
  local out="$runs/$1-consistency/seed-0/evaluations/$3"
  evaluate "$out" n_episodes="$4" first_seed="$5" checkpoint="$(at "$1" consistency 0 2500)" \
    task="robomimic/$1" sampler.init_scale="$2" "sampler.rule_options={noise_scale: $2}"
  looks+=("$1 consistency noise-$2-of-$4@2500=$out/result.json")
}
for task in can lift; do
  for noise in 1.0 0.5 0.0; do noisy "$task" "$noise" "noise-$noise" 40 200008; done
done
for task in lift can square; do noisy "$task" 1.0 all-of-the-noise 100 100000; done

train lift flow-early 0 data.batch_size=128 trainer.max_steps=150 save.every=150
report lift flow-early 0 150
report can flow 0 500
report square flow 0 2500

policies 1
policies 2

# robosuite's human demonstrations: 8 and 7 episodes.
if [ -n "${GENPOLICY_DATA:-}" ]; then
  for task in lift two_arm_handover; do
    [ -d "$runs/human-$task/last" ] || genpolicy train experiment=robomimic_lift_flow data=robomimic \
      name="human_$task" data.task="robomimic/$task" data.horizon=12 data.n_action_steps=4 data.batch_size=128 \
      data.path="$GENPOLICY_DATA/robosuite_human_demos/${task}_human_low_dim.hdf5" \
      "data.reader_options={quaternions: rotation_6d}" run_dir="$runs/human-$task" seed=0 \
      trainer.n_threads=1 trainer.max_steps=400 save.every=400
  done
  evaluate "$runs/human-lift/evaluations/report" n_episodes=100 first_seed=100000 \
    checkpoint="$runs/human-lift/last" task=robomimic/lift
fi

if [ -n "${PLAIN:-}" ]; then  # hours
  train lift flow-plain 0 "${plain[@]}" trainer.max_steps=10000 save.every=5000
  report lift flow-plain 0 10000
  report lift flow-plain 0 5000
  train lift diffusion-plain 0 "${plain[@]}" policy.network.width=256 data.batch_size=128 \
    trainer.max_steps=6000 save.every=3000
  report lift diffusion-plain 0 6000
  train lift consistency-plain 0 data=robomimic policy.network.width=512 data.batch_size=128 \
    algorithm.teacher="$runs/lift-flow-plain/seed-0/last" trainer.max_steps=4000 save.every=4000
  report lift consistency-plain 0 4000
  train can flow-plain 0 "${plain[@]}" trainer.max_steps=20000 save.every=10000
  report can flow-plain 0 20000
  train can diffusion-plain 0 "${plain[@]}" trainer.max_steps=16000 save.every=8000
  report can diffusion-plain 0 16000
  train square flow-plain 0 "${plain[@]}" trainer.max_steps=20000 save.every=10000
  report square flow-plain 0 20000
  train square diffusion-plain 0 "${plain[@]}" trainer.max_steps=16000 save.every=8000
  report square diffusion-plain 0 16000
fi
python experiments/collect.py experiments/robomimic "${pairs[@]}"
python experiments/collect.py experiments/robomimic/looks.csv "${looks[@]}"
