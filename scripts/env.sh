# Source this file, from any folder, in bash or zsh: it makes the virtual environment once, and sets DAGSTER_HOME, where
# it is not set, to .dagster_home in the project's folder. You stay where you are.
#   SUBLIMINAL_VENV   another folder for the environment (default .venv in the project's folder)
#   SUBLIMINAL_EXTRAS extras to install ("dev"; on a GPU node "gpu")
#   PYTHON            the interpreter to make it with (default python3)

_project="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
_venv="${SUBLIMINAL_VENV:-$_project/.venv}"
_extras="${SUBLIMINAL_EXTRAS:-dev}"
_wanted="$(cat "$_project/pyproject.toml" "$_project/constraints.txt" | cksum) $_extras"

if [ "$(cat "$_venv/.installed" 2>/dev/null)" != "$_wanted" ]; then
    _python="${PYTHON:-python3}"
    if ! "$_python" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; then
        echo "subliminal-dagster needs Python 3.11, 3.12 or 3.13: set PYTHON to such an interpreter." >&2
        return 2 2>/dev/null || exit 2
    fi
    echo "Installing into $_venv (once; a few minutes) ..."
    "$_python" -m venv "$_venv" &&
        "$_venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --constraint "$_project/constraints.txt" --editable "$_project[$_extras]" ||
        { echo "The installation failed: see pip's message above." >&2; return 1 2>/dev/null || exit 1; }
    # Byte code once for all: each step is a process of its own, and would compile torch and transformers anew.
    "$_venv/bin/python" -m compileall -q -j 0 "$_venv"/lib/python*/site-packages >/dev/null 2>&1 || true
    echo "$_wanted" > "$_venv/.installed"
fi

# Absolute, so that both hold in whatever folder the next command runs.
PATH="$(CDPATH='' cd -- "$_venv" && pwd)/bin:$PATH"
_home="${DAGSTER_HOME:-$_project/.dagster_home}"
mkdir -p -- "$_home" && DAGSTER_HOME="$(CDPATH='' cd -- "$_home" && pwd)" || {
    echo "DAGSTER_HOME is $_home, where no folder can be made: set it to another, or unset it." >&2
    return 2 2>/dev/null || exit 2
}
# The webserver and the daemon read it, which never import this project.
DAGSTER_DISABLE_TELEMETRY="${DAGSTER_DISABLE_TELEMETRY:-yes}"
# Touching a page of memory for the first time is slow on a virtual machine, and a training touches gigabytes at every
# step. So memory comes in large pages where the kernel leaves that to programs, and is kept from one step to the next.
# What is computed stays the same; only glibc reads this.
_kept=glibc.malloc.trim_threshold=68719476736:glibc.malloc.mmap_threshold=4294967296
GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:$_kept}"
export PATH DAGSTER_HOME DAGSTER_DISABLE_TELEMETRY GLIBC_TUNABLES
# A link to nothing is replaced: the project's folder was moved.
[ -e "$DAGSTER_HOME/dagster.yaml" ] || ln -sf "$_project/dagster.yaml" "$DAGSTER_HOME/dagster.yaml"
