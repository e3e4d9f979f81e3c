"""What `import dilkit` and `dilkit --help` cost beyond starting Python.

    python benchmarks/startup.py

Medians of interleaved repeats in one run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 15
COMMANDS = {
    "python": "pass",
    "import dilkit": "import dilkit",
    "dilkit --help": "import sys; sys.argv[1:] = ['--help']; from dilkit.cli import main; main()",
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, code in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    bare = median.pop("python")
    print(f"{'python':14s} {bare:.3f} s")
    for name, value in median.items():
        print(f"{name:14s} {value:.3f} s, {value - bare:.3f} s beyond Python")


if __name__ == "__main__":
    main()
