"""What executors cost beside the work: 1,000 units that do nothing, and two workers against one.

    python benchmarks/executors.py [--units 1000] [--seconds 0.25]

The work of the second part is waiting, so that the figure is the scheduler's and not that of a busy machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from dilkit.experiments.executors import LocalWorkers, Report, Unit, run_units


@dataclass(frozen=True)
class Wait:
    done: Path
    seconds: float

    def __call__(self, report: Report) -> None:
        time.sleep(self.seconds)
        self.done.write_text("done")


def timed(count: int, seconds: float, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder, LocalWorkers(workers) as pool:
        warm = [_unit(Path(folder) / f"warm-{k}", 0.5) for k in range(workers)]
        run_units(warm, pool)
        units = [_unit(Path(folder) / f"unit-{k}", seconds) for k in range(count)]
        began = time.perf_counter()
        run_units(units, pool)
        return time.perf_counter() - began


def _unit(folder: Path, seconds: float) -> Unit:
    return Unit(folder.name, folder, folder / "done", Wait(folder / "done", seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.25)
    given = parser.parse_args()
    print(f"{given.units} units of no work, 2 workers: {timed(given.units, 0.0, 2):.1f} s")
    one, two = (timed(24, given.seconds, workers) for workers in (1, 2))
    print(
        f"24 units of {given.seconds} s: 1 worker {one:.1f} s, 2 workers {two:.1f} s, {one / two:.2f} times"
    )


if __name__ == "__main__":
    main()
