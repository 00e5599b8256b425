"""What a model is worth on a machine: quality, speed, memory, provenance; the numbers of its card."""
