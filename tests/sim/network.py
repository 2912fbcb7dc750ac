"""The network between links and the coordinator: streams that are late, cut, reset, half-open or replayed.

Owns what is under way. It must not know what frames mean. A `Connection` is one HTTP/2 stream: what goes one way keeps
its order, different connections do not wait for each other. A cut holds everything of one way back until it heals;
a connection that was given up meanwhile never delivers it to its reader's next connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from sim.kernel import Kernel

UP, DOWN = "up", "down"
#: How long after the first frame of a newer connection those come that an older one held up.
OVERTAKEN_US = (50, 2_000)
#: The same for a Hello: the newer session has been given work by then, or not yet.
LATE_HELLO_US = ((50, 2_000), (2_000, 200_000), (200_000, 4_000_000))


class Peer(Protocol):
    """One end of a connection."""

    def received(self, frame: bytes) -> None:
        """One frame, in order."""

    def ended(self, code: str, reason: str, message: str) -> None:
        """The other end has closed, after everything it sent."""


class Wire:
    """The way between one agent's machine and the coordinator, with what is wrong with it now."""

    def __init__(self, kernel: Kernel, name: str, latency_us: tuple[int, int]) -> None:
        self.cut = {UP: False, DOWN: False}
        self.duplicates = 0.0
        #: The next connection is held up from its first frame on.
        self.holds_next = False
        self.latency_us = latency_us
        self.connections: list[Connection] = []
        self.kernel = kernel
        self.random = kernel.stream(f"network/{name}")

    def set_cut(self, way: str, is_cut: bool) -> None:
        """Let nothing of this way through, or everything again."""
        self.cut[way] = is_cut
        if not is_cut:
            for connection in self.connections:
                connection.lanes[way].healed()

    def delay_us(self) -> int:
        """How long one frame takes."""
        return self.random.randrange(*self.latency_us)


class Lane:
    """One way of one connection."""

    __slots__ = ("_at_us", "_held", "_wire", "deliver", "is_held", "is_open", "way")

    def __init__(self, wire: Wire, way: str) -> None:
        self.is_open = True
        #: Something on this connection's way holds everything up.
        self.is_held = False
        self.way = way
        self.deliver: Callable[[str, tuple[Any, ...]], None]
        self._wire = wire
        self._at_us = 0
        self._held: deque[tuple[str, tuple[Any, ...]]] = deque()

    def send(self, what: str, *arguments: Any) -> None:
        """Let this arrive behind what was sent before."""
        wire = self._wire
        self._at_us = max(self._at_us, wire.kernel.now_us + wire.delay_us())
        wire.kernel.at(self._at_us, self._arrive, what, arguments)

    def _arrive(self, what: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_open:
            return
        if self._held or self.is_held or self._wire.cut[self.way]:
            self._held.append((what, arguments))
        else:
            self.deliver(what, arguments)

    def let_go(self) -> None:
        """Nothing holds this connection up any more."""
        self.is_held = False
        self._flush()

    def healed(self) -> None:
        """Everything held back goes on its way; what is sent later stays behind it."""
        if self._held:
            wire = self._wire
            wire.kernel.after(wire.delay_us(), self._flush)

    def _flush(self) -> None:
        while self._held and self.is_open and not (self.is_held or self._wire.cut[self.way]):
            self.deliver(*self._held.popleft())


class Connection:
    """One stream. Each end closes for itself; the other end hears of it when that comes through."""

    def __init__(self, wire: Wire, link: Peer) -> None:
        self.link = link
        self.stream: Peer
        self.lanes = {UP: Lane(wire, UP), DOWN: Lane(wire, DOWN)}
        self.lanes[UP].deliver = self._to_stream
        self.lanes[DOWN].deliver = self._to_link
        self._wire = wire
        self._has_greeted = self._is_heard = False
        self.is_late = self.lanes[UP].is_held = wire.holds_next
        wire.holds_next = False
        wire.connections.append(self)

    def up(self, frame: bytes) -> None:
        """The link sends."""
        lane, wire = self.lanes[UP], self._wire
        lane.send("frame", frame)
        if wire.duplicates and self._has_greeted and wire.random.random() < wire.duplicates:
            wire.kernel.tell("network", "a frame comes twice", UP)
            lane.send("frame", frame)
        self._has_greeted = True

    def down(self, frame: bytes) -> None:
        """The coordinator sends."""
        lane, wire = self.lanes[DOWN], self._wire
        lane.send("frame", frame)
        if wire.duplicates and wire.random.random() < wire.duplicates:
            wire.kernel.tell("network", "a frame comes twice", DOWN)
            lane.send("frame", frame)

    def end_up(self, code: str = "OK") -> None:
        """The link closes its side, in order; it still hears what comes down."""
        self.lanes[UP].send("end", code, "", "")

    def end_down(self, code: str, reason: str, message: str) -> None:
        """The coordinator ends the stream, in order; it hears nothing more."""
        self.lanes[UP].is_open = False
        self.lanes[DOWN].send("end", code, reason, message)

    def reset(self) -> None:
        """RST: both ends lose it, and what was under way."""
        for lane, way in ((self.lanes[UP], self._to_stream), (self.lanes[DOWN], self._to_link)):
            if lane.is_open:
                lane.is_open = False
                delay_us = self._wire.delay_us()
                self._wire.kernel.after(delay_us, way, "end", ("UNAVAILABLE", "", "connection reset"))
        self.forget()

    def vanish(self) -> None:
        """The coordinator's machine is gone: the link hears nothing of that."""
        self.lanes[UP].is_open = self.lanes[DOWN].is_open = False
        self.forget()

    def link_gone(self) -> None:
        """The link's process or machine is gone: nothing comes down to it any more."""
        self.lanes[DOWN].is_open = False

    def forget(self) -> None:
        """Nothing more happens here."""
        if self in self._wire.connections:
            self._wire.connections.remove(self)

    def _to_stream(self, what: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_heard:
            self._is_heard = True
            self._overtakes()
        if what == "frame":
            self.stream.received(*arguments)
        else:
            self.lanes[UP].is_open = False
            self.stream.ended(*arguments)

    def _overtakes(self) -> None:
        """This connection is heard for the first time: what an older one still has under way comes soon after."""
        for older in self._wire.connections:
            if older.lanes[UP].is_held and older is not self:
                dice = self._wire.random
                after_us = dice.choice(LATE_HELLO_US) if older.is_late else OVERTAKEN_US
                self._wire.kernel.after(dice.randrange(*after_us), older.lanes[UP].let_go)

    def _to_link(self, what: str, arguments: tuple[Any, ...]) -> None:
        if what == "frame":
            self.link.received(*arguments)
        else:
            self.lanes[DOWN].is_open = False
            self.link.ended(*arguments)
            self.forget()
