"""Secrets from the command line, with an agent that `outrider up` starts on a settings file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import CommandLine, command_line, start_up, stop_up

VALUE = "a-value-of-the-command-line"
RUN = """
[defaults]
secret = ["TOKEN=token"]
[tasks.first]
shell = 'echo "<$TOKEN>"'
[tasks.second]
shell = 'cat "$FILE"'
secret-fd = ["FILE=token"]
after = "first"
"""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A command line beside a cluster with one secret."""
    folder = tmp_path_factory.mktemp("up")
    (folder / "token").write_text(VALUE + "\n")
    (folder / "token").chmod(0o600)
    config = folder / "outrider.toml"
    config.write_text(f'[agent.secrets.token]\nfile = "{folder}/token"\n')
    with command_line(folder) as made:
        made.environment["OUTRIDER_CONFIG"] = str(config)
        process = start_up(made)
        try:
            yield made
        finally:
            stop_up(process)


def test_submit_hands_secrets_over_both_ways(line: CommandLine) -> None:
    """By value and by path; what comes back names them."""
    check = f'test "$TOKEN" = {VALUE} && test "$(cat "$FILE")" = {VALUE} && echo "both: $TOKEN"'
    ended = line.run(
        "submit", "--wait", "--secret", "TOKEN=token", "--secret-fd", "FILE=token", "--", "sh", "-c", check
    )
    assert (ended.code, ended.out) == (0, "both: [secret token]\n")
    shown = line.run("task", "show", "--last").out
    assert "TOKEN=token FILE=token" in shown
    assert (
        "0 succeeded" not in line.run("map", "--secret", "TOKEN=token", "--", "sh", "-c", "echo $TOKEN", stdin="x").err
    )


def test_a_run_file_asks_for_secrets(line: CommandLine, tmp_path: Path) -> None:
    """For all of its tasks, and for single ones."""
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    ended = line.run("run", "submit", "--wait", str(path))
    assert ended.code == 0, ended.err
    outputs = {line.run("task", "result", row[0]).out for row in line.run("task", "list", "--all").rows[:2]}
    assert outputs == {"<[secret token]>\n", "[secret token]"}


def test_an_agent_is_shown_with_its_secrets(line: CommandLine) -> None:
    """And Explain says what is missing where."""
    agent = line.run("agent", "list").rows[0][0]
    facts = [row.split() for row in line.run("agent", "show", agent).out.splitlines()]
    assert ["secrets", "token"] in [fact[:2] for fact in facts]
    task_id = line.run("submit", "--secret", "X=missing", "--", "true").id
    told = line.run("task", "explain", task_id).out
    assert "no agent has the secrets it asks for (1 known)" in told
    assert "SECRET: it has no secret missing" in told
    assert f"[agent.secrets.missing] in the settings of agent {agent}" in told
    line.run("task", "cancel", task_id)


@pytest.mark.parametrize("words", [("--secret", "TOKEN"), ("--secret", "1=token"), ("--secret-fd", "F=No Name")])
def test_what_makes_no_sense_is_refused_in_one_line(line: CommandLine, words: tuple[str, str]) -> None:
    """Before anything is submitted."""
    ended = line.run("submit", *words, "--", "true")
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1


def test_doctor_says_what_is_wrong_with_a_secret(line: CommandLine) -> None:
    """A file that others can read, with the command that mends it."""
    token = line.folder / "token"
    token.chmod(0o644)
    told = line.run("doctor", "--security")
    token.chmod(0o600)
    assert told.code == 1
    assert f"secret token: {token} is open to others" in told.out
    assert f"chmod 600 {token}" in told.out
    assert "can be found, and only by this user" in line.run("doctor", "--security").out
