"""Coordinators that this user has logged in to: their addresses, whom to trust there, and the token to show.

One file, ``$XDG_CONFIG_HOME/outrider/profiles.json``, 0600. Knows no gRPC. Invariants: a token is used for the address
it was given for and no other; the file is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from outrider import whole_file
from outrider.errors import InvalidRequest, NotFound
from outrider.folders import config_home

__all__ = ["Profile", "current_address", "forget", "of", "path", "remember", "renew"]


class Profile(msgspec.Struct, frozen=True):
    """What is known of one coordinator: the roots to trust there (PEM) and the API token to show."""

    trust: str
    token: str
    user: str = ""


class _File(msgspec.Struct, frozen=True):
    current: str = ""
    profiles: dict[str, Profile] = {}


def path(environment: Mapping[str, str] | None = None) -> Path:
    """Where profiles are kept."""
    return config_home(environment) / "outrider" / "profiles.json"


def of(address: str) -> Profile | None:
    """What is known of the coordinator at this address. Raises `InvalidRequest` for a file that is damaged."""
    return _read().profiles.get(address)


def current_address() -> str:
    """Where this user logged in last; empty when nowhere."""
    return _read().current


def remember(address: str, profile: Profile) -> Path:
    """Keep a login and make it the current one; returns the file."""
    return _write(_File(address, _read().profiles | {address: profile}))


def renew(address: str, trust: str) -> bool:
    """Trust these roots at an address that is known; True when they are others than before."""
    known = _read()
    profile = known.profiles.get(address)
    if profile is None or not trust or profile.trust == trust:
        return False
    _write(_File(known.current, known.profiles | {address: Profile(trust, profile.token, profile.user)}))
    return True


def forget(address: str = "") -> str:
    """Drop a login, the current one by default; returns its address. Raises `NotFound`."""
    known = _read()
    address = address or known.current
    if address not in known.profiles:
        raise NotFound(f"not logged in to {address}" if address else "not logged in anywhere")
    left = {one: profile for one, profile in known.profiles.items() if one != address}
    _write(_File("" if address == known.current else known.current, left))
    return address


def _read() -> _File:
    try:
        return msgspec.json.decode(path().read_bytes(), type=_File)
    except FileNotFoundError:
        return _File()
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"cannot read {path()}: {error}; move it away and log in again") from None


def _write(file: _File) -> Path:
    where = path()
    where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    whole_file.replace(where, msgspec.json.format(msgspec.json.encode(file)))
    return where
