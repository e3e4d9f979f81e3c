"""Confounder datasets: clean images from many sources, each under every distortion of a set.

`build.augment` makes one, `store.Store` reads it, `episodes.EpisodeSampler` and `PairDataset` train on it.
"""
