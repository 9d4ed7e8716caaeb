"""Kernels for GPUs against their references under Triton's interpreter: each file in a process of
its own, which ``tests/kernels/test_gpu.py`` starts.

Pytest does not collect these files by itself: Triton decides whether to interpret a kernel when it
is defined, by TRITON_INTERPRET=1.
"""
