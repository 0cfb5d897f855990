"""Grids of task x method x seed: running them, searching their options, and reporting on them."""
