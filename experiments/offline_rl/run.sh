#!/usr/bin/env bash
# One training seed per algorithm on generated maze2d-umaze data, 100 episodes each on seeds 1000-1099.
# About 40 minutes of one core. RUNS, DATA and BASE (experiments/rlg's base policy) may be set; what
# exists is used.
set -euo pipefail
RUNS=${RUNS:-runs/offline_rl}
DATA=${DATA:-runs/rlg/seed-0/data.hdf5}
BASE=${BASE:-runs/rlg/seed-0/base}
[ -e "$DATA" ] || genpolicy data make maze2d-umaze n=200000 seed=0 path="$DATA"

trained() { # run, algorithm, updates, overrides
  local run=$1 algorithm=$2 steps=$3
  shift 3
  [ -e "$RUNS/$run/last" ] || genpolicy train experiment="maze2d_umaze_$algorithm" \
    data.path="$(realpath "$DATA")" run_dir="$RUNS/$run" trainer.max_steps="$steps" \
    save.every=20000 trainer.n_threads=1 logger=none "$@"
}

pairs=()
evaluated() { # label, run, candidates
  local out="$RUNS/evaluations/$2-$3"
  [ -e "$out/result.json" ] || genpolicy evaluate checkpoint="$RUNS/$2" n_candidates="$3" \
    n_episodes=100 n_envs=100 out="$out"
  pairs+=("$1=$out/result.json")
}

few="data.val_ratio=0.002"
trained idql idql 20000
evaluated "BC (diffusion)@20000" idql 1
evaluated "IDQL, best of 64@20000" idql 64
trained iql iql 10000
evaluated "IQL@10000" iql 1
trained td3_bc td3_bc 10000
evaluated "TD3+BC@10000" td3_bc 1
trained rebrac rebrac 10000
evaluated "ReBRAC@10000" rebrac 1
trained fql fql 4000 "$few"
evaluated "FQL@4000" fql 1
trained consistency_ac consistency_ac 10000
evaluated "Consistency-AC, eta 1@10000" consistency_ac 1
evaluated "Consistency-AC, eta 1, best of 50@10000" consistency_ac 50
trained consistency_ac-eta20 consistency_ac 4000 "$few" algorithm.eta=20.0
evaluated "Consistency-AC, eta 20@4000" consistency_ac-eta20 1
trained consistency_ac-ln consistency_ac 5000 "$few" algorithm.eta=5.0 critic.q.layer_norm=true \
  algorithm.target_rate=0.02
evaluated "Consistency-AC, eta 5, layer norms@5000" consistency_ac-ln 1
trained diffusion_ql diffusion_ql 4000
evaluated "Diffusion-QL, eta 1@4000" diffusion_ql 1
trained eda_behavior eda_behavior 3000 "$few"
trained eda eda 300 "$few" algorithm.behavior="$RUNS/eda_behavior" algorithm.critic_from="$RUNS/iql"
evaluated "EDA@300" eda 1

here=$(dirname "$0")
python experiments/collect.py "$here" "${pairs[@]}"
python "$here/steer.py" "$BASE" "$RUNS/iql"
python "$here/speed.py" "$DATA"
