# Sourced by the tools/*.sh commands: makes .venv when it is missing or stale, and sets $python.
#
# The environment is rebuilt when its inputs change (requirements, detectron2 backend, setup files,
# Python). A half-built one is never taken for ready, and concurrent calls wait for each other.
#   DENSESSL_ENV   where the environment lives (default: .venv in the clone)
#   PYTHON         the interpreter to build it with (default: python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

env_dir=${DENSESSL_ENV:-$PWD/.venv}
base_python=${PYTHON:-python3}
python=$env_dir/bin/python

environment_key() {
  {
    cat requirements.txt setup.py pyproject.toml tools/detectron2_wheel/*.{py,toml} tools/env.sh
    "$base_python" -c 'import sys, sysconfig; print(sys.version, sysconfig.get_platform())'
  } | sha256sum | cut -c1-16
}

build_environment() {
  echo "setting up $env_dir (several minutes on a slow network, 6 GB) ..." >&2
  rm -rf "$env_dir"
  if ! "$base_python" -m venv "$env_dir"; then
    echo "$base_python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2
    exit 1
  fi
  # uv is a faster installer; pip does the same where uv cannot be had. uv does not compile byte
  # code by itself, and without it every later import of torch costs 8 s instead of 2.
  if "$env_dir/bin/pip" install -q --disable-pip-version-check uv==0.13.8; then
    "$env_dir/bin/uv" pip install -q --compile-bytecode -p "$python" -r requirements.txt
    "$env_dir/bin/uv" pip install -q -p "$python" --no-deps -e .
  else
    "$env_dir/bin/pip" install -q -r requirements.txt
    "$env_dir/bin/pip" install -q --no-deps -e .
  fi
  "$python" -W ignore -c '
import detectron2.model_zoo, detectron2.modeling.backbone.vit, densessl
import cv2, faiss, pycocotools, torchvision
from torchvision.ops import nms'
}

"$base_python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
  echo "densessl's tested set needs Python 3.11 to 3.13; $base_python is $("$base_python" -V)." >&2
  echo "Set PYTHON=/path/to/python3.11 and run again." >&2
  exit 1
}
mkdir -p "$(dirname "$env_dir")"
exec 9>"$env_dir.lock"
flock 9
key=$(environment_key)
if [ "$(cat "$env_dir/.ready" 2>/dev/null || true)" != "$key" ]; then
  build_environment
  echo "$key" >"$env_dir/.ready"
fi
exec 9>&-
