"""What an agent's tables say of secrets, where values come from, and for what work the vault hands them out."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from outrider.errors import InvalidRequest
from outrider.worker.messages import Secret
from outrider_agent import settings as agent_settings
from outrider_agent.secret_settings import SecretSettings, check
from outrider_agent.secret_sources import COMMANDS_MAX, FILES_MAX, VALUE_BYTES_MAX, SecretFault, Sources
from outrider_agent.vault import Offer, SecretUse, Vault
from support.waiting import eventually

VALUE = "a value to keep"


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"file": "/f"}, ""),
        ({"environment": "V"}, ""),
        ({"credential": "token"}, ""),
        ({"command": ["/bin/cat", "x"], "namespaces": ["a"], "work": ["m:f"]}, ""),
        ({}, "give one of file, environment, credential, command"),
        ({"file": "/f", "environment": "V"}, "give one of .*, not file and environment"),
        ({"file": "f"}, "file must be an absolute path"),
        ({"command": ["cat", "/f"]}, "command must begin with the absolute path of a program"),
        ({"credential": "../token"}, "credential is a name, not a path"),
        ({"credential": ".."}, "credential is a name, not a path"),
        ({"file": "/f", "namespaces": ["n"] * 40, "work": ["w"] * 40}, "namespaces times work must be at most 1000"),
    ],
)
def test_a_table_names_exactly_one_source(table: dict[str, Any], fault: str) -> None:
    """And says in its own words what is wrong with it."""
    secrets = {"s": SecretSettings(**table)}
    if not fault:
        check(secrets)
        return
    with pytest.raises(InvalidRequest, match=f"agent.secrets.s: {fault}"):
        check(secrets)


def test_names_of_secrets_are_plain_and_not_too_many() -> None:
    """They stand in labels, tables and messages."""
    for name in ("", "Token", "a b", "-a", "x" * 64):
        with pytest.raises(InvalidRequest, match="a name is 1 to 63"):
            check({name: SecretSettings(file="/f")})
    with pytest.raises(InvalidRequest, match="1001 secrets; at most 1000"):
        check({f"s{number}": SecretSettings(file="/f") for number in range(1001)})


def test_tables_are_read_with_the_agents_settings(tmp_path: Path) -> None:
    """From the file, checked strictly, before the agent starts."""
    path = tmp_path / "outrider.toml"
    path.write_text('[agent.secrets.token]\nfile = "/f"\nnamespaces = ["ops"]\n')
    loaded = agent_settings.load(path=path, environment={"HOME": str(tmp_path)})
    assert loaded.secrets == {"token": SecretSettings(file="/f", namespaces=["ops"])}
    path.write_text('[agent.secrets.token]\nfille = "/f"\n')
    with pytest.raises(InvalidRequest, match="fille"):
        agent_settings.load(path=path, environment={"HOME": str(tmp_path)})
    path.write_text('[agent.secrets.token]\nfile = "f"\n')
    with pytest.raises(InvalidRequest, match="absolute path"):
        agent_settings.load(path=path, environment={"HOME": str(tmp_path)})


async def value_of(there: dict[str, str] | None = None, **table: Any) -> bytes | str:
    """The value that a table leads to in this environment, or the words of the fault."""
    secret = SecretSettings(**table)
    sources = Sources({"s": secret}, {} if there is None else there)
    try:
        return await sources.value(secret)
    except SecretFault as fault:
        return str(fault)
    finally:
        sources.close()


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
async def test_one_newline_at_the_end_is_no_part_of_a_value(tmp_path: Path, ending: str) -> None:
    """Of files, credentials and what programs print; what stands before it, newlines too, is."""
    path = tmp_path / "secret"
    path.write_bytes(f"{VALUE}\n\n{VALUE}{ending}".encode())
    wanted = f"{VALUE}\n\n{VALUE}".encode()
    assert await value_of(file=str(path)) == wanted
    assert await value_of(command=["/bin/cat", str(path)]) == wanted
    assert await value_of({"CREDENTIALS_DIRECTORY": str(tmp_path)}, credential="secret") == wanted
    assert await value_of({"V": VALUE + "\n"}, environment="V") == (VALUE + "\n").encode()


async def test_what_is_no_value_is_refused_in_words_without_paths(tmp_path: Path) -> None:
    """Missing, closed, too long, too short, no file at all."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * (VALUE_BYTES_MAX + 1))
    (tmp_path / "short").write_bytes(b"1234567\n")
    (tmp_path / "most").write_bytes(b"x" * VALUE_BYTES_MAX + b"\r\n")
    short = "its value is shorter than 8 bytes, too short to be kept out of what tasks print; "
    assert await value_of(file=str(tmp_path / "none")) == "its file cannot be read: No such file or directory"
    assert await value_of(file=str(tmp_path)) == "its file cannot be read: Is a directory"
    assert await value_of(file=str(tmp_path / "pipe")) == "its file is no regular file"
    assert await value_of(file=str(tmp_path / "long")) == "its value is longer than 65536 bytes"
    assert await value_of(file=str(tmp_path / "most")) == b"x" * VALUE_BYTES_MAX
    assert str(await value_of(file=str(tmp_path / "short"))).startswith(short)
    assert await value_of(file=str(tmp_path / "short"), redact=False) == b"1234567"
    assert await value_of(environment="V") == "the agent's environment does not have its variable"
    assert "was started without credentials" in str(await value_of(credential="c"))
    missing = await value_of(command=[str(tmp_path / "none")])
    assert missing == "its command cannot be started: No such file or directory"


def environment_of(pid: int) -> bytes:
    """With what a process was started: nothing for a moment while it becomes another program."""
    return eventually(Path(f"/proc/{pid}/environ").read_bytes)


async def test_programs_are_bounded_in_time_size_and_number(tmp_path: Path) -> None:
    """Whatever becomes of one, nothing of it is left, and its own children are not either."""
    marks = {"MARK": "made-by-a-test"}
    hanging = SecretSettings(command=["/bin/sh", "-c", "sleep 1000 & sleep 1000"], timeout_s=0.2)
    sources = Sources({}, {"NOTIFY_SOCKET": "hidden"}, marks)
    values = [asyncio.create_task(sources.value(hanging)) for _ in range(COMMANDS_MAX + 1)]
    await asyncio.sleep(0)
    pids = set(sources.pids)
    assert len(pids) == COMMANDS_MAX
    environments = [environment_of(pid) for pid in pids]
    assert all(b"MARK=made-by-a-test" in one and b"NOTIFY_SOCKET" not in one for one in environments)
    faults = await asyncio.gather(*values, return_exceptions=True)
    assert {str(fault) for fault in faults} == {"its command took longer than 0.2 s"}
    assert not sources.pids
    eventually(lambda: not any(map(psutil.pid_exists, pids)))
    endless = SecretSettings(command=["/bin/cat", "/dev/zero"])
    with pytest.raises(SecretFault, match="printed more than 65536 bytes"):
        await sources.value(endless)
    with pytest.raises(SecretFault, match="ended with code 4"):
        await sources.value(SecretSettings(command=["/bin/sh", "-c", f"echo {VALUE}; exit 4"]))
    sources.close()


async def test_a_file_system_that_hangs_costs_its_own_tasks_only(tmp_path: Path) -> None:
    """Who reads there gives up after the time of its table; threads are bounded, and the agent's others stay free."""
    (tmp_path / "secret").write_text(VALUE)
    secret = SecretSettings(file=str(tmp_path / "secret"), timeout_s=0.2)
    sources, over = Sources({}, {}), threading.Event()
    hanging = [asyncio.get_running_loop().run_in_executor(sources._readers, over.wait) for _ in range(FILES_MAX)]
    with pytest.raises(SecretFault, match=r"its file could not be read within 0\.2 s"):
        await sources.value(secret)
    over.set()
    await asyncio.gather(*hanging)
    assert await sources.value(secret) == VALUE.encode()
    sources.close()


async def test_variables_that_are_secrets_leave_the_agents_environment(tmp_path: Path) -> None:
    """No child of the agent inherits them, or learns where credentials are."""
    tables = {"v": SecretSettings(environment="V"), "c": SecretSettings(credential="c")}
    (tmp_path / "c").write_text(VALUE)
    environment = {"V": VALUE, "W": "stays", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    sources = Sources(tables, environment)
    assert environment == {"W": "stays"}
    assert [await sources.value(table) for table in tables.values()] == [VALUE.encode()] * 2
    sources.close()
    untouched = {"V": VALUE, "CREDENTIALS_DIRECTORY": "/d"}
    Sources({"f": SecretSettings(file="/f")}, untouched).close()
    assert untouched == {"V": VALUE, "CREDENTIALS_DIRECTORY": "/d"}


def test_a_program_is_named_by_its_word_or_by_where_that_leads() -> None:
    """A policy of the agent puts the path in the word's place before anything starts; no other path will do."""
    secret = SecretSettings(file="/f", work=["true", "m:f"])
    found = shutil.which("true")
    assert found is not None
    assert [secret.is_for("n", work) for work in ("true", found, "m:f")] == [True] * 3
    assert [secret.is_for("n", work) for work in ("/tmp/true", "m:g", "false", "")] == [False] * 4


# --- the vault


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """Secrets from one file, for different work."""
    (tmp_path / "secret").write_text(VALUE)
    (tmp_path / "zero").write_bytes(b"zero \0 within it")
    path = str(tmp_path / "secret")
    tables = {
        "any": SecretSettings(file=path),
        "ops": SecretSettings(file=path, namespaces=["ops"]),
        "work": SecretSettings(file=path, work=["m:f"], redact=False),
        "zero": SecretSettings(file=str(tmp_path / "zero")),
        "gone": SecretSettings(file=str(tmp_path / "gone")),
    }
    return Vault(tables, Sources(tables, {}))


async def fetched(
    vault: Vault, *uses: SecretUse, namespace: str = "ops", work: str = "m:f"
) -> tuple[list[Secret], str]:
    """What the vault says."""
    answer: asyncio.Future[tuple[list[Secret], str]] = asyncio.get_running_loop().create_future()
    vault.fetch(uses, namespace, work, lambda secrets, fault: answer.set_result((secrets, fault)))
    found = await answer
    await vault.close()
    return found


async def test_all_secrets_of_a_task_are_handed_over_together(vault: Vault) -> None:
    """In the order asked, each as it was asked for."""
    uses = (SecretUse("A", "any"), SecretUse("F", "ops", True), SecretUse("W", "work"))
    secrets, fault = await fetched(vault, *uses)
    value = VALUE.encode()
    assert not fault
    assert secrets == [
        Secret("A", "any", value),
        Secret("F", "ops", value, by_descriptor=True),
        Secret("W", "work", value, is_plain=True),
    ]
    assert VALUE not in repr(secrets)


@pytest.mark.parametrize(
    ("secret", "how", "text"),
    [
        ("none", {}, "cannot come by secret none: it is not defined there"),
        ("ops", {"namespace": "dev"}, "cannot come by secret ops: there it is not for 'm:f' of namespace 'dev'"),
        ("work", {"work": "m:g"}, "cannot come by secret work: there it is not for 'm:g' of namespace 'ops'"),
        ("gone", {}, "cannot come by secret gone: its file cannot be read: No such file or directory"),
        (
            "zero",
            {},
            "cannot come by secret zero: its value has a zero byte, which no variable can hold; take it by descriptor",
        ),
    ],
)
async def test_one_that_cannot_be_had_is_named_and_nothing_is_handed_over(
    vault: Vault, secret: str, how: dict[str, str], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the coordinator believes of who may have it; the agent's log knows more, and no value either."""
    with caplog.at_level(logging.WARNING):
        assert await fetched(vault, SecretUse("A", "any"), SecretUse("B", secret), **how) == ([], text)
    assert VALUE not in caplog.text
    assert f"secret {secret} cannot be had" in caplog.text


async def test_a_fault_of_ours_costs_the_attempt_alone(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """And tells nothing but its kind: its words could be anything."""
    monkeypatch.setattr(vault._sources, "value", lambda secret: 1 // 0)
    assert await fetched(vault, SecretUse("A", "any")) == ([], "cannot come by secret any: ZeroDivisionError")


async def test_a_vault_tells_names_and_rules_alone(vault: Vault) -> None:
    """In order of the names."""
    assert vault.offers == (
        Offer("any"),
        Offer("gone"),
        Offer("ops", ("ops",)),
        Offer("work", (), ("m:f",)),
        Offer("zero"),
    )
    await vault.close()


async def test_a_vault_that_closes_answers_nobody(tmp_path: Path) -> None:
    """And leaves no program behind."""
    tables = {"s": SecretSettings(command=["/bin/sleep", "1000"])}
    sources = Sources(tables, {})
    vault = Vault(tables, sources)
    heard: list[str] = []
    vault.fetch([SecretUse("S", "s")], "n", "w", lambda secrets, fault: heard.append(fault))
    await asyncio.sleep(0)
    (pid,) = vault.pids
    assert psutil.pid_exists(pid)
    await vault.close()
    assert not vault.pids
    assert not heard
