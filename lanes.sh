#!/usr/bin/env bash
# The quick form of the tests with the versions of constraints/NAME.txt: ./lanes.sh NAME [pytest arguments]
#
# NAME is py311, py312, py313, lower (the lower bounds of pyproject.toml) or colab; the first line of its file says which
# Python it is for. The environment is made in $LANES (.lanes) once and kept; remove its folder to have it made anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

name="${1:?which one? $(basename -s .txt constraints/*.txt | xargs)}"
constraints="constraints/$name.txt"
version="$(sed -nE '1s/^# Python ([0-9.]+):.*/\1/p' "$constraints")"
environment="${LANES:-.lanes}/$name"
if [[ ! -e "$environment/made" ]]; then
    python="$(command -v "$HOME"/.pyenv/versions/"$version".*/bin/python "python$version" | head -1)"
    "${python:?there is no Python $version; install it}" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --progress-bar off -e '.[tests]' -c "$constraints"
    touch "$environment/made"
fi
source "$environment/bin/activate"
python -m pytest -n 2 --dist loadfile -m "not slow" "${@:2}"
