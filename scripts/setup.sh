#!/usr/bin/env bash
# Makes .venv with the tested versions. usage: scripts/setup.sh [EXTRA,...]
set -euo pipefail
cd "$(dirname "$0")/.."

extras="${1:-}"
target="."
[ -z "$extras" ] || target=".[$extras]"

python="${PYTHON:-}"
if [ -z "$python" ]; then
  for candidate in python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python="$candidate"
      break
    fi
  done
fi
if [ -z "$python" ]; then
  echo "setup: found no Python 3.11 or newer; install one, or name it: make PYTHON=/path/to/python train" >&2
  exit 2
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
# uv installs the same packages several times as fast as pip; where it cannot be had, pip does the same work.
if .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.8" 2>/dev/null; then
  install=(.venv/bin/uv pip install --quiet --python .venv/bin/python)
  # uv does not read pip's folders of local wheels by itself.
  [ -z "${PIP_FIND_LINKS:-}" ] || install+=(--find-links "$PIP_FIND_LINKS")
else
  install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
fi
echo "setup: installing the tested versions into .venv"
"${install[@]}" --constraint constraints.txt --editable "$target"
.venv/bin/python -c 'import torch, diffusers; print(f"setup: torch {torch.__version__}, diffusers {diffusers.__version__}")'
