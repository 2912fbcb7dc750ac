"""The README's section about a second machine, word for word, on two machines that share nothing but a cable."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from support.source_tree import ROOT
from support.two_machines import Machine, two_machines
from support.waiting import eventually

pytestmark = pytest.mark.needs("ip")


def readme_blocks() -> list[list[str]]:
    """What one is told to type, block by block."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("## A second machine")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [[line[2:] for line in block.splitlines() if line.startswith("$ ")] for block in blocks]


def test_a_second_machine_joins_with_the_line_that_is_printed(tmp_path: Path) -> None:
    """Init, run, token, paste, run: then a task runs over there, over mutual TLS, and nothing was copied by hand."""
    first_block, second_block, third_block = readme_blocks()
    with two_machines(tmp_path) as (here, there):
        init, run = first_block
        here.run(init.replace("build.example", here.address))
        here.start(run, "serving on")
        (create,) = second_block
        line = here.run(create).strip()
        join, start = third_block
        assert shlex.split(join)[:3] == shlex.split(line)[:3]
        joined = there.run(f"{line} --name there")
        assert f"{here.address}:7420" in joined
        there.start(start, "agent there is up")
        output = here.run("outrider submit --wait -- cat /proc/net/fib_trie")
        assert there.address in output, "it did not run over there"
        assert "there" in here.run("outrider agent list")
        # Plain text and a stranger's TLS get nowhere; the port is not silent about it.
        refused = there.run(f"outrider --coordinator {here.address}:7420 task list", check=False)
        assert "refusing to talk" in refused
        login_with_a_token(here, there)


def login_with_a_token(here: Machine, there: Machine) -> None:
    """A person over there logs in, submits, and cannot order agents about."""
    here.run("outrider user put ann --role submitter")
    token = here.run("outrider user token ann").splitlines()[0]
    there.run(f"echo {token} | outrider login {here.address}:7421")
    assert there.run("outrider submit --wait -- echo hello").strip() == "hello"
    assert "takes operator" in there.run("outrider agent pause there", check=False)
    here.run("outrider agent revoke there")
    eventually(lambda: "suspect" in here.run("outrider agent list"))
