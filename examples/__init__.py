"""Worked examples of dense tasks: run them from the root of the repository, ``python -m examples.segmentation``."""
