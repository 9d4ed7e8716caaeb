"""Gaussian kernel densities: from samples, from counted tables, with a gradient."""
