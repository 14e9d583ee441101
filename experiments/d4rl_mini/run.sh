#!/usr/bin/env bash
# Eight methods on four tasks, three training seeds: 96 runs and 12 that EDA starts from; about 80 minutes of
# one core. POLICIES: folder of the actors that genpolicy.d4rl_tasks names; the file of kitchen-complete lies below
# GENPOLICY_DATA. Stopped at any time, it goes on with the same command.
set -euo pipefail
here=$(dirname "$0")
data=${GENPOLICY_DATA:?folder of data sets}
for robot in hopper halfcheetah; do
  [ -e "$data/d4rl/$robot-medium-expert.hdf5" ] || genpolicy data make "d4rl/$robot-medium-expert" \
    policies="${POLICIES:?folder of policies}" n=200000 seed=0 path="$data/d4rl/$robot-medium-expert.hdf5"
done
[ -e "$data/d4rl/maze2d-umaze-sparse-v1.hdf5" ] ||
  genpolicy data make maze2d-umaze n=200000 seed=0 path="$data/d4rl/maze2d-umaze-sparse-v1.hdf5"
genpolicy sweep sweep=d4rl_mini "$@"
genpolicy report sweeps/d4rl_mini out=runs/report
cp runs/report/report.html runs/report/report.md "$here"
cp runs/report/report.csv "$here/results.csv"
