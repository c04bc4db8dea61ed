#!/usr/bin/env bash
# Open Dagster's UI on the same instance, on this machine alone (arguments go to `dagster dev`), and beside it the reports
# that it links to.
set -euo pipefail
source "$(dirname "$0")/env.sh"
subliminal-dagster pages &
trap 'kill $! 2>/dev/null || true' EXIT
# It names a successor that expects other projects than this one.
export PYTHONWARNINGS="${PYTHONWARNINGS:+$PYTHONWARNINGS,}ignore:Function \`dev_command\` is superseded"
dagster dev --workspace "$_project/workspace.yaml" --host 127.0.0.1 "$@"
