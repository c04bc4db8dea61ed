#!/usr/bin/env bash
# Set up, and run the tests (arguments go to pytest, in the project's folder).
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$_project"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# A file per process at a time, so that what a file makes for its tests is made once; in the order of tests/conftest.py.
# One process more than cores: some tests wait for a clock, a cluster or a browser.
processes="$(python -c 'import os; print((os.cpu_count() or 1) + 1)')"
exec python -m pytest --numprocesses "$processes" --dist loadfile --no-loadscope-reorder "$@"
