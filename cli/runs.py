"""`dilkit runs`."""
