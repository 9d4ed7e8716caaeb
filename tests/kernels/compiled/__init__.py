"""Kernels for GPUs compiled for cards that need not be there: each file in a process of its own,
which ``tests/kernels/test_gpu.py`` starts. What is compiled is not run.
"""
