"""What `import dilkit`, `--help`, `ls` and `eval --help` cost beyond starting Python: 0.3 s are allowed.

    python benchmarks/startup.py

Medians of interleaved repeats in one run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 15


def program(*words: str) -> str:
    """Run the program in this process, whatever it exits with."""
    return (
        f"import sys; sys.argv[1:] = {list(words)!r}\n"
        "from dilkit.cli import main\n"
        "try: main()\nexcept SystemExit: pass"
    )


COMMANDS = {
    "python": "pass",
    "import dilkit": "import dilkit",
    "dilkit --help": program("--help"),
    "dilkit eval --help": program("eval", "--help"),
    **{
        f"dilkit ls {kind}": program("ls", kind)
        for kind in ("distortions", "protocols", "objectives", "models")
    },
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
    print(f"{'python':24s} {bare:.3f} s")
    for name, value in median.items():
        print(f"{name:24s} {value:.3f} s, {value - bare:.3f} s beyond Python")


if __name__ == "__main__":
    main()
