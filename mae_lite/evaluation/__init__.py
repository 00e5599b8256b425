"""Exact accuracy of classifiers, in training and afterwards."""
