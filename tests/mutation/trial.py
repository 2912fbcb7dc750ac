"""Mutants on trial: which tests run a line, and whether one of them notices that it was changed.

A pytest plugin that takes over once the tests are collected. It runs each once under coverage, then forks a process
per mutant that changes one function in memory and runs the tests of the changed lines, quick ones and those that
noticed others first. Verdicts: NOTICED, SURVIVED, UNREACHED when no test runs the lines.
"""

from __future__ import annotations
import __future__

import gc
import importlib
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import coverage
import pytest
from _pytest.runner import runtestprotocol  # the one way to run a collected test again

from mutation.mutants import Mutant

NOTICED, SURVIVED, UNREACHED = "noticed", "survived", "unreached"
MEMORY_BYTES_MAX = 4 << 30
#: A random walk with its seed, and how many seeds of each are enough here.
WALK, WALKS = re.compile(r"property/.*\[(\d+)\]$"), 8


@dataclass
class Trial:
    """Which mutants, how many at once, how long tests may take that look at one, and how long one of them.

    ``durations_s`` is how long tests took last time: what took too long is not even looked at.
    """

    package: str
    mutants: list[Mutant]
    children: int
    most_s: float
    longest_s: float
    told: Callable[[Mutant, str, str], None]
    durations_s: dict[str, float] = field(default_factory=dict)
    #: File to line to the tests that run it.
    reached: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    noticed_by: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of running the tests: see what they run, then try the mutants."""
        items = {item.nodeid: item for item in session.items if self._is_wanted(item.nodeid)}
        self._see_what_they_run(items)
        gc.freeze()
        running: dict[int, tuple[Mutant, list[str]]] = {}
        for mutant in self.mutants:
            tests = self._tests_of(mutant)
            if not tests:
                self.told(mutant, UNREACHED, "")
                continue
            if len(running) >= self.children:
                self._take_one(running)
            running[_fork(mutant, [items[test] for test in tests], self._limit_s(tests))] = (mutant, tests)
        while running:
            self._take_one(running)
        return True

    def _is_wanted(self, test: str) -> bool:
        """Whether a test is quick enough, and not one more of very many random walks."""
        walk = WALK.search(test)
        return self.durations_s.get(test, 0) <= self.longest_s and (walk is None or int(walk[1]) < WALKS)

    def _see_what_they_run(self, items: dict[str, pytest.Item]) -> None:
        seen = coverage.Coverage(data_file=None, branch=False, source=[self.package], config_file=False)
        seen.start()
        for name, item in items.items():
            seen.switch_context(name)
            self._clear_caches()
            began_s = time.process_time()
            if not _passes(item):
                pytest.exit(f"{name} fails without any mutant", 3)
            self.durations_s[name] = time.process_time() - began_s
        seen.stop()
        data = seen.get_data()
        for file in data.measured_files():
            self.reached[file] = {
                line: {test for test in tests if test} for line, tests in data.contexts_by_lineno(file).items()
            }

    def _clear_caches(self) -> None:
        """What is remembered of another test would not be run by this one."""
        for name, module in list(sys.modules.items()):
            if name.startswith(self.package):
                clear_caches(module)

    def _tests_of(self, mutant: Mutant) -> list[str]:
        """The tests to run, in their order, as many as there is time for; at least one."""
        module = sys.modules[mutant.module]
        by_line = self.reached.get(str(module.__file__), {})
        lines = mutant.lines or _lines_of(_function(module, mutant.function))
        tests = set().union(*(by_line.get(line, ()) for line in lines))
        noticed = self.noticed_by.get((mutant.module, mutant.function), Counter())
        ordered = sorted(tests, key=lambda test: (-noticed[test], self.durations_s[test], test))
        total_s, count = 0.0, 0
        for test in ordered:
            total_s += self.durations_s[test]
            if count and total_s > self.most_s:
                break
            count += 1
        return ordered[:count]

    def _limit_s(self, tests: list[str]) -> float:
        return 2 + 4 * sum(self.durations_s[test] for test in tests)

    def _take_one(self, running: dict[int, tuple[Mutant, list[str]]]) -> None:
        pid, status = os.wait()
        mutant, tests = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            self.told(mutant, SURVIVED, "")
            return
        by = tests[code - 1] if 0 < code <= min(len(tests), 255) else "time or memory"
        self.noticed_by.setdefault((mutant.module, mutant.function), Counter())[by] += 1
        self.told(mutant, NOTICED, by)


def _fork(mutant: Mutant, items: list[pytest.Item], limit_s: float) -> int:
    """Start a process that tries a mutant; its exit status is 0, or the place of the test that noticed, from 1."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 255
    try:
        os.setpgid(0, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        code = _first_to_notice(mutant, items)
    finally:
        os._exit(code)


def _first_to_notice(mutant: Mutant, items: list[pytest.Item]) -> int:
    if not _put_in(mutant):
        return 255
    return next((min(place, 254) for place, item in enumerate(items, 1) if not _passes(item)), 0)


def _passes(item: pytest.Item) -> bool:
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _put_in(mutant: Mutant) -> bool:
    """Give the function in memory the changed code, wherever it is referred to; False when it cannot even be made."""
    module = sys.modules[mutant.module]
    target = _function(module, mutant.function)
    made: dict[str, Any] = dict(vars(module))
    code = compile(mutant.source, str(module.__file__), "exec", __future__.annotations.compiler_flag, dont_inherit=True)
    try:
        exec(code, made)
    except Exception:
        return False
    changed = made[mutant.function.rpartition(".")[2]]
    target.__code__ = changed.__code__
    target.__defaults__, target.__kwdefaults__ = changed.__defaults__, changed.__kwdefaults__
    clear_caches(module)
    return True


def clear_caches(module: ModuleType) -> None:
    """Forget what functions of a module remember (`functools.lru_cache`)."""
    for value in vars(module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def _function(module: ModuleType, name: str) -> FunctionType:
    owner, _, plain = name.rpartition(".")
    found: Any = vars(vars(module)[owner])[plain] if owner else vars(module)[plain]
    found = getattr(found, "fget", None) or getattr(found, "__func__", None) or getattr(found, "__wrapped__", found)
    assert isinstance(found, FunctionType), f"{module.__name__}.{name} is no function"
    return found


def _lines_of(function: FunctionType) -> Iterator[int]:
    first = function.__code__.co_firstlineno
    return (line for _, _, line in function.__code__.co_lines() if line and line > first)


def import_all(package: str, folder: Path) -> list[tuple[Path, str]]:
    """Every module below a package's folder, imported: its file and its name, in a stated order."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        if file.stem != "__init__":
            name = ".".join((package, *file.relative_to(folder).with_suffix("").parts))
            importlib.import_module(name)
            found.append((file, name))
    return found
