"""Confounder datasets: clean images from many sources, each under every distortion of a set.

`builder.augment` makes one, `store.Store` reads it, `episodes.EpisodeSampler` trains on it; `verify`, `edit`,
`merge`, `preview`, `statistics` and `duplicates` each hold what their name says.
"""
