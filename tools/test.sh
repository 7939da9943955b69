#!/usr/bin/env bash
# Runs the test suite in the project's own environment: bash tools/test.sh [pytest arguments]
# All of it runs in several processes; named tests (tests/engine, tests/test_config.py::NAME) run in one.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# One thread each: on few cores the spin waits of several cost far more than they bring.
export OMP_NUM_THREADS=1
exec "$python" -m pytest "$@"
