"""Presets: every one is a valid set of settings for both daemons."""

from __future__ import annotations

import pytest

from outrider.errors import InvalidRequest
from outrider.presets import PRESETS, preset
from outrider.settings import load
from outrider_agent.settings import load as load_agent
from outrider_coordinator.settings import CoordinatorSettings

SECTIONS = ("coordinator", "agent")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_for_the_coordinator(name: str) -> None:
    """The coordinator takes every preset, and it changes what it says."""
    values = preset(name, "coordinator")
    settings = load(CoordinatorSettings, "coordinator", preset=values, flags={}, environment={})
    assert {key: getattr(settings, key) for key in values} == values


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_for_the_agent(name: str) -> None:
    """The agent takes every preset, and it changes what it says."""
    values = preset(name, "agent")
    settings = load_agent(preset=values, flags={}, environment={})
    assert {key: getattr(settings, key) for key in values} == values


def test_flags_and_environment_win_over_a_preset() -> None:
    """A preset stands below everything that somebody says."""
    values = preset("constrained", "agent")
    assert load_agent(preset=values, flags={"slots": 3}, environment={}).slots == 3
    assert load_agent(preset=values, flags={}, environment={"OUTRIDER_AGENT_SLOTS": "2"}).slots == 2


def test_every_preset_has_both_sections() -> None:
    """No preset forgets a daemon, and none names another."""
    assert all(set(sections) == set(SECTIONS) for sections in PRESETS.values())


def test_no_name_is_no_preset() -> None:
    """Without a name nothing is preset."""
    assert not preset(None, "agent")
    assert not preset("", "agent")


def test_unknown_preset() -> None:
    """An unknown name is refused with those there are."""
    with pytest.raises(InvalidRequest, match="no preset 'huge'; use one of development, production, constrained"):
        preset("huge", "agent")
