"""Episodes in order, made ahead of the step that uses them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from itertools import count

from dilkit.confounders.episodes import Episode


def episodes(make: Callable[[int], Episode], start: int, stop: int | None, ahead: int) -> Iterator[Episode]:
    """`make(start)`, `make(start + 1)`, ... up to `stop` (None: for ever), up to `ahead` of them made early
    by a thread. Which thread makes an episode does not change it: it depends on its number alone."""
    numbers = count(start) if stop is None else iter(range(start, stop))
    if ahead == 0:
        yield from map(make, numbers)
        return
    ready: queue.Queue[Episode | BaseException | None] = queue.Queue(ahead)
    done = threading.Event()

    def put(item: Episode | BaseException | None) -> None:
        while not done.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for number in numbers:
                if done.is_set():
                    return
                put(make(number))
            put(None)
        except BaseException as error:  # noqa: BLE001  (raised again where the episode is asked for)
            put(error)

    threading.Thread(target=work, name="dilkit-feed", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        done.set()
