"""Tests of mae_lite."""
