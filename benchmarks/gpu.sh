#!/usr/bin/env bash
# What wants an accelerator, each part with a limit of its own, ten minutes together: run from the repository's root, in an environment
# that has jax for the device (pip install -e '.[tests,benchmarks]' 'jax[cuda12]'). Records and tables go to $OUT.
# A part that is slow or broken leaves the others.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT="${OUT:-runs/gpu}"
mkdir -p "$OUT"
python -c "import jax; print(jax.devices(), jax.__version__)" | tee "$OUT/device.txt"

part() { # name, seconds, command ...
    local name="$1" seconds="$2"
    shift 2
    echo "== $name"
    timeout "$seconds" "$@" >"$OUT/$name.txt" 2>"$OUT/$name.err" || echo "$name ended with $?; see $OUT/$name.err"
    tail -n 20 "$OUT/$name.txt"
}

# The published network: NAS-Bench-201 at full size, ours in bfloat16 against PyTorch as peers run it and at its best.
part cells_full 180 python -m benchmarks.compare --rows cells_1000 --width 16 --image-size 32 --cells 5 \
    --num-images 10240 --most-archs 200 --num-baseline 4 --compute-dtype bfloat16 \
    --baselines serial_1 torch_eager torch_best --out "$OUT/cells_full.json"
# Sharing and widths: every chain of NAS-Bench-Macro at half width, and a PC-NAS step.
part chains 110 python -m benchmarks.compare --rows macro_all pcnas_step --width 16 --image-size 32 --num-images 2048 \
    --baselines serial_1 torch_eager torch_best --num-baseline 4 --out "$OUT/chains.json"
# The routes with few images, where sub-networks alone leave the device idle.
part routes 100 python -m benchmarks.evaluator --routes serial dispatch graph auto --width 16 --image-size 32 \
    --num-images 256 --memory-budget 17179869184 --out "$OUT/routes.json"
part train_step 80 python -m benchmarks.train_step --image-size 32 --out "$OUT/train_step.json"
# Networks of their own: one at a time, seeds side by side, architectures side by side.
part standalone 60 python -m benchmarks.standalone --num-archs 16 --out "$OUT/standalone.json"
part tests 60 python -m pytest -q tests/test_evaluation.py tests/test_choice.py
