"""Optimiser, checkpoints and the one training loop."""
