"""Measuring nets honestly: the grid of images and distortions, rows, scores, protocols, metrics."""
