#!/usr/bin/env bash
# Makes .venv with the tested versions. usage: scripts/setup.sh [EXTRA,...]; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

# Runs the interpreter, because a name on the PATH may be a shim with nothing behind it.
is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate candidates=(python3.11 python3.12 python3.13 python3.14 python3)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if is_recent "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  say "found $("${PYTHON:-python3}" --version 2>/dev/null || echo "no ${PYTHON:-python3}"); editkit needs Python 3.11" \
    "or newer. Install one, or name it: make train PYTHON=/path/to/python"
  return 2
}

# uv does what pip does in a tenth of the time, but reads none of pip's settings.
with_uv() {
  local folder options=()
  .venv/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt uv || return
  if [ -n "${PIP_FIND_LINKS:-}" ]; then
    for folder in $PIP_FIND_LINKS; do options+=(--find-links "$folder"); done
  else
    options+=(--torch-backend auto) # the build for this machine's accelerator; the small CPU build where there is none
  fi
  .venv/bin/uv pip install --quiet --python .venv/bin/python "${options[@]}" "$@"
}

with_pip() {
  say "uv could not do it; pip tries, which takes some minutes"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}

if ! is_recent .venv/bin/python; then
  python="$(find_python)"
  "$python" -m venv --clear .venv
fi
say "installing the tested versions into .venv"
target=".${1:+[$1]}"
with_uv --constraint constraints.txt --editable "$target" || with_pip --constraint constraints.txt --editable "$target"
.venv/bin/python -c 'import torch; print("setup: ready, with torch", torch.__version__)' || {
  say "torch is installed but cannot be imported; the lines above say why"
  exit 1
}
