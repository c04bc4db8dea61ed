#!/usr/bin/env bash
# Open Dagster's UI on the same instance, on this machine alone (arguments go to `dagster dev`).
set -euo pipefail
source "$(dirname "$0")/env.sh"
exec dagster dev --workspace "$_project/workspace.yaml" --host 127.0.0.1 "$@"
