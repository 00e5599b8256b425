"""Encoders: building, position tables, weights."""
