"""Fast twins of a few functions, each with one reference in plain PyTorch.

The reference is in ``functional/`` or ``states/``, and serves wherever a twin is not: whole counts,
neighbours and KNN values are the same to the bit, floating sums to 1e-12 in float64. No value, no
error and no option depends on which of them runs.

A compiled library serves the CPU (:mod:`mi_metrics.kernels.native`). It is built with the wheel or
the editable install where a compiler is, and by ``python -m mi_metrics.kernels.build``; without one
everything works, slower.

Kernels in Triton serve GPUs (:mod:`mi_metrics.kernels.gpu`): ``triton_hard`` and its like, imported
when the first tensor on a GPU asks for them.

``MI_METRICS_KERNELS=0`` in the environment switches all twins off, :func:`switch.disabled` does for
a while. :func:`native.status` and :func:`gpu.status` say whether they serve, and if not, why.

This package imports nothing of the others.
"""
