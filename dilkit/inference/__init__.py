"""Nets put to use: opened, run on images of any size, on files, and written for other programs."""
