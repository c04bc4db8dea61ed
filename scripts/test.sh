#!/usr/bin/env bash
# Set up, and run the tests (arguments go to pytest, in the project's folder).
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$_project"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# A file a process at a time, so that what a file makes for its tests is made once; in the order of tests/conftest.py.
exec python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
