"""`python -m dilkit` is the program `dilkit`."""

from dilkit.cli import main

main()
