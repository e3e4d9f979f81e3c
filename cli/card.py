"""`dilkit card`."""
