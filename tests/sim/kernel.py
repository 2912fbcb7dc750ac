"""Virtual time and randomness: the only clock and the only dice of a simulation.

Owns the event heap, the named PRNG streams and the story. It must not know what is simulated. Invariants: what is due
at one time happens in the order in which it was asked for; each subsystem draws from a stream of its own, derived from
the seed and the stream's name, so that a draw more in one changes nothing in another.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from sim.dice import Dice

#: True time at the start of every simulation, microseconds since the Unix epoch.
START_US = 1_700_000_000_000_000


class Kernel:
    """One simulation's time, dice and story."""

    __slots__ = ("_heap", "_made", "_streams", "now_us", "seed", "story")

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self.now_us = START_US
        self.story: list[tuple[Any, ...]] = []
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0
        self._streams: dict[str, Dice] = {}

    def stream(self, name: str) -> Dice:
        """The dice of one subsystem; seeding with text does not depend on the interpreter's hash seed."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Dice(f"{self.seed}/{name}")
        return stream

    def at(self, due_us: int, action: Callable[..., None], *arguments: Any) -> None:
        """Do this at a time, or now when that has passed. Nothing is ever taken back: an action looks for itself."""
        self._made += 1
        heapq.heappush(self._heap, (max(due_us, self.now_us), self._made, action, arguments))

    def after(self, delay_us: int, action: Callable[..., None], *arguments: Any) -> None:
        """Do this so much later."""
        self._made += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._made, action, arguments))

    def run_until(self, end_us: int) -> None:
        """Let time pass up to ``end_us``."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end_us:
            self.now_us, _, action, arguments = pop(heap)
            action(*arguments)
        self.now_us = max(self.now_us, end_us)

    def run_while(self, is_needed: Callable[[], bool], end_us: int, look_us: int) -> None:
        """Let time pass up to ``end_us``, or until a look every ``look_us`` says that no more is needed."""
        while self.now_us < end_us and is_needed():
            self.run_until(min(end_us, self.now_us + look_us))

    def tell(self, who: str, what: str, *details: Any) -> None:
        """One line of the story; put into words only when somebody reads it."""
        self.story.append((self.now_us, who, what, details))


class Pausable:
    """A process as far as it can be stopped and killed: what happens meanwhile happens when it goes on, in order."""

    __slots__ = ("_kernel", "_waiting", "is_dead", "paused_us", "resume_us")

    def __init__(self, kernel: Kernel) -> None:
        self.is_dead = False
        self.resume_us = 0
        #: For how long it has stood still since somebody put this back to 0.
        self.paused_us = 0
        self._kernel = kernel
        self._waiting: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def pause(self, until_us: int) -> None:
        """SIGSTOP, and SIGCONT then."""
        self.paused_us += max(0, until_us - max(self.resume_us, self._kernel.now_us))
        self.resume_us = max(self.resume_us, until_us)

    def resume(self) -> None:
        """SIGCONT, at once."""
        self.resume_us = self._kernel.now_us
        if self._waiting:
            self._kernel.after(0, self._go_on)

    def do(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Now, or behind everything else that waits; not at all in a process that is dead by then."""
        if self._waiting or self._kernel.now_us < self.resume_us:
            self._waiting.append((action, arguments))
            if len(self._waiting) == 1:
                self._kernel.at(self.resume_us, self._go_on)
        elif not self.is_dead:
            action(*arguments)

    def _go_on(self) -> None:
        if self._kernel.now_us < self.resume_us:
            self._kernel.at(self.resume_us, self._go_on)
            return
        waiting, self._waiting = self._waiting, []
        for action, arguments in waiting:
            if not self.is_dead:
                action(*arguments)
