#!/usr/bin/env bash
# Lint, types, tests, in this order; the first failure ends it.
#
#   ./check.sh          the quick form: all but the tests marked slow, which it names in the end
#   ./check.sh --all    what the quick form leaves out: the slow tests, and those that need XLA's real code generation
#
# Arguments go to pytest, with paths from the repository's root: ./check.sh tests/test_codes.py -k mutate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Files of tests lie in memory where there is room for them: a test that writes checkpoints waits for the disk else.
if [[ -z "${TMPDIR:-}" && -w /dev/shm ]] && (($(df --output=avail -k /dev/shm | tail -1) > 8 * 2**20)); then
    TMPDIR="$(mktemp -d -p /dev/shm)"
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
    chmod a+rx "$TMPDIR" # where tests become nobody to be refused
fi

# Two workers, each with whole files: compiling, most of the time, keeps one core busy.
tests() { python -m pytest -n 2 --dist loadfile --durations=15 "$@"; }

if [[ "${1:-}" == --all ]]; then
    tests -m slow "${@:2}"
    # The suite compiles at level 0, for speed (tests/conftest.py); these once more as a user's program is compiled.
    XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=3" tests -m codegen "${@:2}"
    exit
fi
python -m ruff check .
python -m ruff format --check .
python -m mypy
tests -m "not slow" "$@"
echo "Left to ./check.sh --all, besides the tests marked codegen once more with XLA's real code generation:"
grep -o 'mark\.slow("[^"]*")' tests/*.py | sed 's/mark\.slow("\(.*\)")/ \1/' | sort -u
