"""Nearest neighbours in the max norm, and how many samples lie within a distance."""
