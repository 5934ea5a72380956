#!/usr/bin/env bash
# Lint, types, tests, in this order; the first failure ends it.
# Arguments go to pytest, with paths from the repository's root: ./check.sh tests/test_arch.py -k mutate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python -m ruff check .
python -m ruff format --check .
python -m mypy
# Two workers, each with whole files: compiling, most of the time, keeps one core busy.
python -m pytest -n 2 --dist loadfile --durations=15 "$@"
