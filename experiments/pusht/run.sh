#!/usr/bin/env bash
# Needs the Push-T demonstrations (genpolicy data get pusht, or GENPOLICY_DATA).
set -euo pipefail
runs=runs/pusht
train() { genpolicy train "experiment=pusht_$1" name="$1" run_dir="$runs/$1" seed=0 \
  trainer.n_threads=1 save.keep=all "${@:2}"; }
train flow
train diffusion
train consistency algorithm.teacher="$runs/flow/last"

evaluate() {  # folder step tag first_seed [settings of the sampler]
  local out="$runs/$1/evaluations/$3-$2"
  [ -f "$out/result.json" ] || genpolicy evaluate n_episodes=100 n_envs=50 first_seed="$4" \
    checkpoint="$runs/$1/checkpoints/$(printf 'step-%08d' "$2")" out="$out" "${@:5}"
  label="$1" file="$out/result.json"
}

# The settings of the sampler were chosen on other seeds than those reported.
chosen=()
choose() { evaluate "$1" "$2" "$3" 200000 "${@:4}"; chosen+=("$label-$3@$2=$file"); }
for scale in 1.0 0.5 0.3 0.0; do choose flow 30000 "init_scale_$scale" sampler.init_scale=$scale; done
choose flow 30000 init_scale_0.5_20_steps sampler.n_steps=20
for scale in 1.0 0.5; do choose diffusion 30000 "init_scale_$scale" sampler.init_scale=$scale; done
choose consistency 10000 noise_1.0 sampler.init_scale=1.0 'sampler.rule_options={noise_scale: 1.0}'
for noise in 1.0 0.5 0.0; do
  choose consistency 10000 "init_scale_0.5_noise_$noise" "sampler.rule_options={noise_scale: $noise}"
done
choose consistency 10000 init_scale_0.5_1_step sampler.n_steps=1
python experiments/collect.py experiments/pusht/sampler.csv "${chosen[@]}"

pairs=()
report() { evaluate "$1" "$2" report 100000; pairs+=("$1@$2=$file"); }
for step in 30000 25000 20000; do report flow $step; report diffusion $step; done
for step in 10000 5000; do report consistency $step; done
python experiments/collect.py experiments/pusht "${pairs[@]}"

# From images: about an hour of one core.
[ -d "$runs/pixels/checkpoints/step-00016000" ] || genpolicy train experiment=pusht_pixels_flow name=pixels \
  run_dir="$runs/pixels" seed=0 trainer.n_threads=1 policy.encoder.crop=84 optimizer.lr=5e-4 \
  trainer.max_steps=16000 save.every=2000 save.keep=all
images=()
for step in 16000 8000; do
  out="$runs/pixels/evaluations/report-$step"
  [ -f "$out/result.json" ] || genpolicy evaluate n_episodes=100 n_envs=20 first_seed=100000 video=4 \
    checkpoint="$runs/pixels/checkpoints/$(printf 'step-%08d' "$step")" task=pusht-pixels out="$out"
  images+=("pixels@$step=$out/result.json")
done
python experiments/collect.py experiments/pusht/pixels.csv "${images[@]}"
