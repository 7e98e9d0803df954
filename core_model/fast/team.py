"""Threads that run one kernel together.

The kernels meet at barriers of their own (spinning, a few hundred of them a token), so all members
of a team must run at the same moment. That is why there is one team a process, and one kernel at
a time: two sessions that decode at once take turns, token by token. Knows no model.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

_LINE = 8
"""int64 words of a cache line."""


def cpu_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Team:
    """The caller's thread and as many helpers as are asked for."""

    def __init__(self) -> None:
        self._start_afresh()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_afresh)

    def _start_afresh(self) -> None:
        self.lock = threading.Lock()
        self._inboxes: list[queue.SimpleQueue[Any]] = []

    def run(self, kernel: Callable[..., Any], threads: int, *args: Any) -> None:
        """`kernel(i, threads, sync, *args)` for i < threads, side by side; hold `lock` meanwhile.

        `sync` is the words that the kernel's barriers use: how many wait, which round it is, and
        whether to give up.
        """
        sync = np.zeros(4 * _LINE, np.int64)
        if threads == 1:
            kernel(0, 1, sync, *args)
            return
        while len(self._inboxes) < threads - 1:
            self._hire()
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        waiting = 0
        try:
            for i in range(1, threads):
                self._inboxes[i - 1].put((kernel, (i, threads, sync, *args), sync, done))
                waiting += 1
            kernel(0, threads, sync, *args)
        except BaseException:
            # Interrupted before all were there: nobody waits for those who never come.
            sync[2 * _LINE] = 1
            raise
        finally:
            failures = [done.get() for _ in range(waiting)]
        for failure in failures:
            if failure is not None:
                raise failure

    def _hire(self) -> None:
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        name = f"anybind-fast-{len(self._inboxes) + 1}"
        threading.Thread(target=_work, args=(inbox,), name=name, daemon=True).start()
        self._inboxes.append(inbox)


def _work(inbox: queue.SimpleQueue[Any]) -> None:
    while True:
        kernel, args, sync, done = inbox.get()
        try:
            kernel(*args)
            failure = None
        except BaseException as error:  # told to the caller
            sync[2 * _LINE] = 1
            failure = error
        # Nothing of a model is held while waiting for the next call.
        del kernel, args, sync
        done.put(failure)
        del done, failure


TEAM = Team()
