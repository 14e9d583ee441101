#!/usr/bin/env bash
# One training seed per algorithm on generated maze2d-umaze data, 100 episodes each on seeds 1000-1099.
# About 10 minutes of one core per algorithm. RUNS and DATA may be set; what exists is used.
set -euo pipefail
RUNS=${RUNS:-runs/offline_rl}
DATA=${DATA:-$RUNS/data.hdf5}
[ -e "$DATA" ] || genpolicy data make maze2d-umaze n=200000 seed=0 path="$DATA"
evaluate() { # label, run, n_candidates
  [ -e "$RUNS/$1.done" ] && return
  genpolicy evaluate checkpoint="$RUNS/$2" n_candidates="$3" n_episodes=100 n_envs=100 \
    out="$RUNS/evaluations/$1"
  touch "$RUNS/$1.done"
}
for name in ${ALGORITHMS:-idql iql td3_bc rebrac consistency_ac diffusion_ql fql}; do
  [ -e "$RUNS/$name/last" ] || genpolicy train experiment="maze2d_umaze_$name" \
    data.path="$(realpath "$DATA")" run_dir="$RUNS/$name" save.every=20000 trainer.n_threads=1 logger=none
  evaluate "$name-one" "$name" 1
  case $name in
    idql) evaluate "$name-best-of-64" "$name" 64 ;;
    consistency_ac | diffusion_ql) evaluate "$name-best-of-50" "$name" 50 ;;
  esac
done
