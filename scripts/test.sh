#!/usr/bin/env bash
# Set up, and run the tests (arguments go to pytest).
set -euo pipefail
source "$(dirname "$0")/env.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest "$@"
