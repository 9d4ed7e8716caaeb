#!/usr/bin/env bash
# On a machine with a GPU, in six minutes: whether kernels serve and are right, figures, then the tests. Run from the
# checkout, with the package and the extra dev installed (bench for the peers); results are in OUT (default: runs/gpu).
set -uo pipefail
out=${OUT:-runs/gpu}
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# Interrupted and not killed: pytest then says what it has found so far.
within() { timeout --signal=INT --kill-after=10 "$@"; }

python -c "import torch; assert torch.cuda.is_available(), 'PyTorch finds no CUDA device.'" || exit 1
within 45 python -m mi_metrics.kernels.build --if-possible
python -c "from mi_metrics.kernels import gpu; print(gpu.status())" | tee "$out/status.txt"
# A process of each kind of checks: what one kernel does to a card is not held against the others.
: >"$out/cuda.txt"
for what in kernels "losses or functions or wait" processes; do
	within 45 python -m pytest -q -rfE --tb=short tests/test_cuda.py -k "$what" 2>&1 | tail -60 | tee -a "$out/cuda.txt"
done
within 100 python -m benchmarks --device cuda --json "$out/benchmarks.json" 2>&1 | tee "$out/benchmarks.txt"
within 75 python -m pytest -q -rfE --tb=short -n 8 --dist worksteal --device cuda --maxfail 50 \
	-m "not slow and not campaign and not notebook and not distributed" \
	tests/test_cuda.py tests/contract tests/functional tests/metrics tests/test_losses*.py 2>&1 | tail -100 |
	tee "$out/tests.txt"
