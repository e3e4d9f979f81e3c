"""`dilkit doctor`."""
