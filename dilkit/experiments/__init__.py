"""Comparing arms: what to run, running it, the comparison."""
