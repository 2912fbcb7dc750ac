"""Mutation test of the decision core: small faults put into it one by one, and whether any test notices.

    cd tests && python -m mutation.mutate_core [MODULE or FOLDER ...] [--again] [--show]

Prints the score of each module and writes what survived to build/mutation/survivors.txt; what was found about modules
not named now is kept from before. Survivors that README.md beside this file explains are counted apart. Needs
requirements/mutation.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

from mutation import mutants, trial, typed

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "outrider_coordinator.core"
FOLDER = ROOT / "coordinator" / "outrider_coordinator" / "core"
PLACE = ROOT / "build" / "mutation"
README = Path(__file__).with_name("README.md")
FOLDERS = ("unit", "property", "transcripts", "sim")
#: A test file with one of these words in it uses the core.
SIGNS = re.compile(r"outrider_coordinator\.core|support\.\w+_world|transcript|run_seed")
#: Not of the core, though they import some of it: they start threads, stores or processes.
LEFT_OUT = re.compile(r"test_(engine|journal|store_thread|watch_hub|quarantine|dispatch_spans|two_stores|planted|tiny)")


#: Of a mutant: its function, the lines before and after.
Name = tuple[str, str, str]
#: No test noticed it, and mypy refuses it.
TYPED = "typed"
GOOD = (trial.NOTICED, TYPED)


class Verdict(NamedTuple):
    """What became of a mutant; ``by`` is the test that noticed it."""

    module: str
    function: str
    before: str
    after: str
    verdict: str
    by: str

    @property
    def name(self) -> Name:
        """As README.md names it."""
        return f"{self.module}.{self.function}", self.before, self.after


def tests() -> list[str]:
    """Test files that use the core, and nothing with processes or sockets in it."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / "tests" / folder).glob("test_*.py"))]
    return [str(file) for file in files if SIGNS.search(file.read_text()) and not LEFT_OUT.match(file.stem)]


def chosen(names: list[str]) -> list[tuple[Path, str]]:
    """The modules with these names, or in folders with these names; all when there are none."""
    modules = trial.import_all(PACKAGE, FOLDER)
    wanted = {name.removesuffix(".py").replace("/", ".") for name in names}
    short = {module: module.removeprefix(PACKAGE + ".") for _, module in modules}
    known = {part for name in short.values() for part in (name, name.partition(".")[0], name.rpartition(".")[2])}
    if wanted - known:
        sys.exit(f"no such module of the core: {', '.join(sorted(wanted - known))}")
    return [
        (file, module)
        for file, module in modules
        if not wanted or wanted & {short[module], short[module].partition(".")[0], short[module].rpartition(".")[2]}
    ]


class Row(NamedTuple):
    """A row of README.md: which survivors it gives a reason for. ``…`` in a line stands for any text."""

    function: str
    before: str
    after: str

    def is_about(self, name: Name) -> bool:
        """Whether it explains this mutant."""
        function, *lines = name
        return self.function == function and all(
            re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line) is not None
            for pattern, line in zip(self[1:], lines, strict=True)
        )


def explained() -> list[Row]:
    """Survivors that README.md gives a reason for, in rows of: function, before, after, reason."""
    row = re.compile(r"^\| `([^`]+)` \| `(.*?)` \| `(.*?)` \| .+ \|$")
    found = (row.match(line) for line in README.read_text().splitlines())
    return [Row(match[1], *(match[place].replace("\\|", "|") for place in (2, 3))) for match in found if match]


def report(verdicts: list[Verdict], rows: list[Row], made: Counter[str]) -> None:
    """Print the scores as README.md has them, and write down what survived without a reason.

    ``made`` is how many mutants there are of each module, tried or not.
    """
    by_function: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_function[row.function].append(row)
    used: set[Row] = set()
    by_module: dict[str, Counter[str]] = defaultdict(Counter)
    left = []
    for verdict in verdicts:
        about = [
            row for row in by_function[verdict.name[0]] if verdict.verdict not in GOOD and row.is_about(verdict.name)
        ]
        used.update(about)
        is_explained = bool(about)
        by_module[verdict.module]["explained" if is_explained else verdict.verdict] += 1
        if verdict.verdict not in GOOD and not is_explained:
            left.append(verdict)
    print("| module | faults | tried | noticed | typed | explained | survived | score |")
    print("|---|" + "---:|" * 7)
    for module in sorted(by_module):
        print(_scored(module, made[module], by_module[module]))
    print(_scored("all", made.total(), sum(by_module.values(), Counter())))
    (PLACE / "survivors.txt").write_text("".join(f"{_told(verdict)}\n" for verdict in left))
    print(f"survivors without a reason: {len(left)}, in {PLACE / 'survivors.txt'}")
    covered = set(by_module)
    for function, before, after in sorted(set(rows) - used):
        if any(function.startswith(f"{module}.") for module in covered):
            print(f"README.md explains what does not survive (any more): {function}: {before} => {after}")


def _scored(name: str, made: int, counts: Counter[str]) -> str:
    """A row of the table; what no test reaches counts as survived."""
    good, tried = counts[trial.NOTICED] + counts[TYPED], counts.total()
    survived = counts[trial.SURVIVED] + counts[trial.UNREACHED]
    numbers = (made, tried, counts[trial.NOTICED], counts[TYPED], counts["explained"], survived)
    score = 100 * good / max(1, tried - counts["explained"])
    return f"| {name} | {' | '.join(map(str, numbers))} | {score:.1f} % |"


def _told(verdict: Verdict) -> str:
    return f"{verdict.module}.{verdict.function} [{verdict.verdict}]\n    {verdict.before}\n    {verdict.after}"


def run(
    modules: list[tuple[Path, str]],
    known: dict[Name, Verdict],
    keep: Callable[[Iterable[Verdict]], None],
    arguments: argparse.Namespace,
) -> None:
    """Try the mutants of these modules, save those that are known to be noticed; ``keep`` is told what is found so far.

    New ones come first, then those that survived last time and that mypy does not refuse.
    """
    made = {_name(mutant): mutant for file, module in modules for mutant in mutants.of_module(file, module)}
    found = look_at_types({name: known[name] for name in made if name in known}, made)
    to_try = [mutant for name, mutant in made.items() if name not in found]
    to_try += [made[name] for name, verdict in found.items() if verdict.verdict not in GOOD]
    tried, began_s = 0, time.monotonic()

    def told(mutant: mutants.Mutant, verdict: str, by: str) -> None:
        nonlocal tried
        tried += 1
        name = _name(mutant)
        found[name] = Verdict(mutant.module.removeprefix(PACKAGE + "."), mutant.function, *name[1:], verdict, by)
        if tried % 100 == 0:
            bad = sum(one.verdict not in GOOD for one in found.values())
            passed_s = time.monotonic() - began_s
            print(f"{tried} of {len(to_try)} in {passed_s:.0f} s; {bad} of {len(found)} not noticed", flush=True)
            keep(found.values())

    print(f"{len(to_try)} of {len(made)} mutants of {len(modules)} modules", flush=True)
    store = PLACE / "durations.json"
    durations_s = json.loads(store.read_text()) if store.exists() else {}
    court = trial.Trial(
        PACKAGE, to_try, arguments.children, arguments.most_s, arguments.longest_s, told, durations_s=durations_s
    )
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "timeout=0", "-W", "ignore", *tests()]
    if pytest.main(options, plugins=[court]) != 0:
        sys.exit("the tests do not pass without mutants")
    store.write_text(json.dumps(durations_s | court.durations_s, indent=1))
    keep(look_at_types(found, made).values())


def look_at_types(found: dict[Name, Verdict], made: dict[Name, mutants.Mutant]) -> dict[Name, Verdict]:
    """The same verdicts, those that no test noticed and mypy refuses marked as such."""
    left = [name for name, verdict in found.items() if verdict.verdict not in GOOD]
    place = PLACE / "typed"
    place.mkdir(exist_ok=True)
    wrong = typed.refused([made[name] for name in left], ROOT, place) if left else set()
    refused = {left[number] for number in wrong}
    return {name: one._replace(verdict=TYPED) if name in refused else one for name, one in found.items()}


def _name(mutant: mutants.Mutant) -> Name:
    return f"{mutant.module.removeprefix(PACKAGE + '.')}.{mutant.function}", mutant.before, mutant.after


def main() -> None:
    """Mutate, test, report."""
    parser = argparse.ArgumentParser(description="mutation test of the decision core")
    parser.add_argument("modules", nargs="*", help="modules or folders of the core; all of them when none is named")
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="how many mutants at once")
    parser.add_argument("--most-s", type=float, default=6.0, help="CPU time that tests may take for one mutant")
    parser.add_argument("--longest-s", type=float, default=0.7, help="tests that took longer last time are left out")
    parser.add_argument("--again", action="store_true", help="try only what was not noticed last time")
    parser.add_argument("--show", action="store_true", help="only report what was found before")
    arguments = parser.parse_args()
    os.environ.setdefault("SIM_SEEDS", "12")  # a few are enough: what they notice, they mostly notice early
    hypothesis.settings.register_profile(
        "mutation",
        database=None,
        max_examples=25,
        derandomize=True,
        deadline=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutation")
    PLACE.mkdir(parents=True, exist_ok=True)
    store = PLACE / "verdicts.json"
    verdicts = [Verdict(*row) for row in json.loads(store.read_text())] if store.exists() else []
    if not arguments.show:
        modules = chosen(arguments.modules)
        names = {module.removeprefix(PACKAGE + ".") for _, module in modules}
        others = [verdict for verdict in verdicts if verdict.module not in names]
        known = {verdict.name: verdict for verdict in verdicts} if arguments.again else {}

        def keep(found: Iterable[Verdict]) -> None:
            verdicts[:] = sorted([*others, *found])
            store.write_text(json.dumps(verdicts))

        run(modules, known, keep, arguments)
    there = {_name(mutant): mutant for file, module in chosen([]) for mutant in mutants.of_module(file, module)}
    made = Counter(mutant.module.removeprefix(PACKAGE + ".") for mutant in there.values())
    report([verdict for verdict in verdicts if verdict.name in there], explained(), made)


if __name__ == "__main__":
    main()
