"""Runs from files on the command line, beside a cluster that `outrider up` started; docs/runs.md is what is tried."""

from __future__ import annotations

import io
import json
import re
import signal
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import outrider
from outrider import errors
from support.command_line import TIMEOUT_S, CommandLine
from support.source_tree import ROOT
from support.waiting import eventually
from support.witness import Gate

PAGE = (ROOT / "docs" / "runs.md").read_text()


def blocks(language: str) -> list[str]:
    """Blocks of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def address(cli: CommandLine) -> str:
    """Where the cluster announced itself."""
    found: str = json.loads((cli.runtime / "outrider" / "cluster.json").read_text())["address"]
    return found


def written(cli: CommandLine, text: str, name: str = "run.toml") -> str:
    """The name of a file with this text."""
    path: Path = cli.folder / name
    path.write_text(text)
    return str(path)


def states(cli: CommandLine, run_id: str) -> dict[str, str]:
    """State by key."""
    rows = cli.run("run", "show", run_id).out.splitlines()
    table = rows[rows.index(next(row for row in rows if row.startswith("KEY\t"))) + 1 :]
    return {row.split("\t")[0]: row.split("\t")[2] for row in table}


def test_the_pages_first_file_runs(cli: CommandLine) -> None:
    """Submitted with --wait it succeeds, tells how far it is, and leaves inputs, phases and milestones as told."""
    done = cli.run("run", "submit", written(cli, blocks("toml")[0]), "--wait")
    assert done.code == 0, done.err
    assert "3/3 done (100%)" in done.out
    assert "SUCCEEDED: 3: 3 succeeded" in done.err
    shown = cli.run("run", "show", "--last").out
    assert "fails fast, at most 4 at once" in shown
    assert "fetched 1/1 at " in shown
    run = json.loads(cli.run("run", "show", "--last", "--json").out)
    assert run["progress"]["fraction"] == 1.0
    assert run["progress"]["speedup"] > 0
    counted = next(one["task_id"] for one in run["task_ids"] if one["key"] == "count")
    assert cli.run("task", "result", counted).out.strip() == "1"


def test_the_pages_conditions_hold(cli: CommandLine) -> None:
    """What comes after a failure runs, what needs a success is skipped, and the run has failed."""
    done = cli.run("run", "submit", written(cli, blocks("toml")[1]), "--wait")
    assert done.code == 1
    assert states(cli, "--last") == {
        "build": "FAILED",
        "publish": "SKIPPED",
        "report": "SUCCEEDED",
        "cleanup": "SUCCEEDED",
    }


def test_the_pages_program_runs(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of Python adds to its own run and prints the result of what it added."""
    monkeypatch.setenv("OUTRIDER_COORDINATOR", address(cli))
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(blocks("python")[0], "runs.md", "exec"), {})
    first, second = out.getvalue().splitlines()
    assert first == "9.0"
    assert second.startswith("5/5 done (100%)")


def test_a_run_is_done_again_where_it_failed(cli: CommandLine) -> None:
    """`run retry` does what failed and what was skipped, with the old results; once all succeeded it says no."""
    mark = cli.folder / "mark"
    text = f"""
[tasks.a]
shell = "echo one"
[tasks.b]
shell = "cat $OUTRIDER_INPUTS; test -e {mark}"
after = "a"
[tasks.c]
shell = "true"
after = "b"
"""
    submitted = cli.run("run", "submit", written(cli, text), "--json")
    first = json.loads(submitted.out)
    assert cli.run("run", "watch", first["run_id"]).code == 1
    mark.touch()
    again = cli.run("run", "retry", first["run_id"], "--wait")
    assert again.code == 0, again.err
    assert states(cli, "--last") == {"b": "SUCCEEDED", "c": "SUCCEEDED"}
    assert f"retry of {first['run_id'][:16]}" in " ".join(cli.run("run", "show", "--last").out.split())
    refused = cli.run("run", "retry", "--last")
    assert refused.code == 1
    assert "nothing to do again" in refused.err
    once_more = cli.run("task", "retry", first["tasks"]["b"]).out.strip()
    assert cli.run("task", "result", once_more, "--wait").code == 0
    assert first["tasks"]["b"][:16] in cli.run("task", "show", once_more).out


def test_tasks_are_added_from_a_file(cli: CommandLine, gate: Gate) -> None:
    """`run add` extends a run that is under way; keys that are there and policies are refused by name."""
    run_id = cli.run("run", "submit", written(cli, f"[tasks.a]\ncommand = {gate.command()}\n")).out.strip()
    more = written(cli, '[tasks.b]\nshell = "true"\nafter = "a"\n', "more.toml")
    added = cli.run("run", "add", run_id, more, "--request-id", "more")
    assert [row[0] for row in added.rows] == ["b"]
    assert cli.run("run", "add", run_id, more, "--request-id", "more").out == added.out
    assert "the run has a task 'b' already" in cli.run("run", "add", run_id, more).err
    policy = cli.run("run", "add", run_id, written(cli, 'sequential = true\n[tasks.c]\nshell = "true"\n', "p.toml"))
    assert (policy.code, "decided with its submit" in policy.err) == (2, True)
    gate.open()
    assert cli.run("run", "watch", run_id).code == 0
    assert states(cli, run_id) == {"a": "SUCCEEDED", "b": "SUCCEEDED"}


def test_a_bad_file_submits_nothing(cli: CommandLine) -> None:
    """The error names the file, the task and the field; a cycle is named key by key."""
    bad = written(cli, '[tasks.a]\nshell = "true"\ntimeout = "soon"\n')
    told = cli.run("run", "submit", bad)
    assert (told.code, told.out) == (2, "")
    assert f"{bad}: task 'a'.timeout" in told.err
    text = '[tasks.a]\nshell = "x"\nafter = "b"\n[tasks.b]\nshell = "x"\nafter = "a"\n'
    circle = cli.run("run", "submit", written(cli, text))
    assert circle.code == 2
    assert "a -> b -> a" in circle.err


def test_ctrl_c_leaves_the_run_running(cli: CommandLine) -> None:
    """Watching is interrupted with 130 and says how to come back; the run goes on until it is cancelled."""
    run_id = cli.run("run", "submit", written(cli, '[tasks.a]\ncommand = ["cat", "/dev/zero"]\n')).out.strip()
    out, err = (cli.folder / "watch.out").open("wb"), (cli.folder / "watch.err").open("wb")
    watching = cli.start("run", "watch", run_id, stdout=out, stderr=err)
    eventually(lambda: "1 in progress" in (cli.folder / "watch.out").read_text(), TIMEOUT_S)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(TIMEOUT_S) == 130
    assert f"detached; the run goes on: outrider run watch {run_id[:16]}" in (cli.folder / "watch.err").read_text()
    assert cli.run("run", "cancel", run_id).out.strip() == f"{run_id[:16]}: 1 tasks cancelled"
    assert cli.run("run", "watch", run_id).code == 5


def test_handles_of_runs_can_be_found_again(cli: CommandLine) -> None:
    """The SDK finds a run by the beginning of its id, waits for it, retries it and its tasks."""
    with outrider.Client(address(cli)) as client:
        run = client.run("to be found")
        run.command("bad", ["false"])
        run.add("good", "math:sqrt", 4)
        submitted = run.submit()
        with outrider.Client(address(cli)) as other:
            found = other.find_run(submitted.id[:16])
            assert list(found.tasks) == ["bad", "good"]
            assert not found.wait(TIMEOUT_S)
            assert found.result("good") == 2.0
            progress = found.progress()
            assert (progress.total, progress.completed, progress.fraction, progress.is_over) == (2, 2, 1.0, True)
            again = found.retry()
            assert list(again.tasks) == ["bad"]
            assert not again.wait(TIMEOUT_S)
            assert found.tasks["good"].retry().result(TIMEOUT_S) == 2.0
            more = found.more()
            more.add("late", "math:sqrt", 1)
            with pytest.raises(errors.IllegalTransition):
                more.submit()
