#!/usr/bin/env bash
# On a machine with a GPU, in six minutes: figures, then the tests. Run from the checkout, with the package and the
# extras dev and bench installed; results are in OUT (default: runs/gpu).
set -uo pipefail
out=${OUT:-runs/gpu}
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python -m mi_metrics.kernels.build --if-possible
python -c "from mi_metrics.kernels import gpu; print(gpu.status())" | tee "$out/status.txt"
timeout 40 python -m pytest -q tests/test_cuda.py -k "losses or functions or wait" 2>&1 | tail -40 | tee "$out/cuda.txt"
timeout 150 python -m benchmarks --device cuda --json "$out/benchmarks.json" 2>&1 | tee "$out/benchmarks.txt"
timeout 150 python -m pytest -q -n 8 --device cuda -m "not slow and not campaign and not notebook" --maxfail 50 \
	tests/test_cuda.py tests/contract tests/functional tests/metrics tests/test_losses*.py 2>&1 | tail -80 | tee "$out/tests.txt"
python -c "from mi_metrics.kernels import gpu; print(gpu.failures())" | tee -a "$out/status.txt"
