#!/usr/bin/env bash
# Set up, and make what is missing or out of date of a study (default: the bundled one).
#   scripts/study.sh [--study NAME_OR_FILE] [--seed NUMBER] [--set FIELD=VALUE ...]
set -euo pipefail
source "$(dirname "$0")/env.sh"
exec subliminal-dagster run "$@"
