"""`python -m dilkit` is the program `dilkit`."""

import importlib

importlib.import_module("dilkit.cli").main()
