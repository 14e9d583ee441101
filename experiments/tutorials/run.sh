#!/usr/bin/env bash
# Execute all tutorials: writes the notebooks and results.csv. Needs the extras docs and sim.
set -euo pipefail
cd "$(dirname "$0")/../.."
OMP_NUM_THREADS=1 .venv/bin/python experiments/tutorials/build.py "$@"
