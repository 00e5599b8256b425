"""Finished models at work: loaded from wherever they lie, and what they say of images."""
