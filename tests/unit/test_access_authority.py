"""The cluster's authority and certificates: who verifies whom, before, during and after a rotation."""

from __future__ import annotations

import contextlib
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from outrider import certificates, whole_file
from outrider.credentials import ApiToken, JoinToken
from outrider.errors import IllegalTransition, InvalidRequest
from outrider_coordinator.access.authority import Authority


class Crash(Exception):
    """The power is gone."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A new one."""
    return Authority.make(tmp_path / "authority", "test", ["build.example", "192.0.2.7"])


def serves(authority: Authority, trust: bytes, host: str = "build.example") -> bool:
    """Whether who believes these roots verifies the server by this name."""
    _, chain = authority.server_pair()
    leaf, *others = x509.load_pem_x509_certificates(chain)
    store = Store(x509.load_pem_x509_certificates(trust))
    try:
        PolicyBuilder().store(store).build_server_verifier(x509.DNSName(host)).verify(leaf, others)
    except VerificationError:
        return False
    return True


def test_a_rotation_leaves_nobody_behind(authority: Authority) -> None:
    """Old trust verifies the new server until the old root is retired; the new trust verifies it throughout."""
    old = authority.trust
    before = certificates.certificate_of(authority.agent_certificate("a", certificates.new_key().public_key()).chain)
    assert serves(authority, old)
    assert not serves(authority, old, "other.example")
    authority.rotate()
    both = authority.trust
    assert serves(authority, old)
    assert serves(authority, both)
    assert authority.verifies(before)
    with pytest.raises(IllegalTransition, match="retire the old one first"):
        authority.rotate()
    authority.retire()
    assert serves(authority, authority.trust)
    assert not serves(authority, old)
    assert not authority.verifies(before)
    with pytest.raises(IllegalTransition, match="`rotate` comes first"):
        authority.retire()


def test_what_is_on_disk_is_what_is_in_memory(authority: Authority) -> None:
    """Loaded again at every moment of a rotation it signs, believes and serves the same."""
    for change in (lambda: None, authority.rotate, authority.retire):
        change()
        again = Authority(authority.folder)
        assert (again.key_id, again.roots, again.trust) == (authority.key_id, authority.roots, authority.trust)
        assert again.server_pair() == authority.server_pair()


@pytest.mark.parametrize("kept", range(7))
def test_a_crash_in_the_middle_of_a_rotation_leaves_one_that_works(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Stopped after each file it writes: a start loads it, its server is verified, and it can go on."""
    written = 0
    write = whole_file.replace

    def torn(path: Path, data: bytes) -> None:
        nonlocal written
        if written == kept:
            raise Crash
        written += 1
        write(path, data)

    old = authority.trust
    monkeypatch.setattr(whole_file, "replace", torn)
    with contextlib.suppress(Crash):
        authority.rotate()
        authority.retire()
    monkeypatch.setattr(whole_file, "replace", write)
    again = Authority(authority.folder)
    assert serves(again, again.trust)
    assert serves(again, old) or len(again.roots) == 1 or written >= 5
    again.renew_server()
    assert serves(again, again.trust)


def test_keys_are_nobody_elses(authority: Authority) -> None:
    """Folder 0700, files 0600, and a second authority is not made over the first."""
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in authority.folder.iterdir()} == {0o600}
    with pytest.raises(IllegalTransition, match="kept as it is"):
        Authority.make(authority.folder, "test", ["x"])


def test_a_client_certificate_is_for_clients_and_one_name(authority: Authority) -> None:
    """One SPIFFE id, clientAuth, no authority, and it does not outlive its root."""
    key = certificates.new_key().public_key()
    signed = authority.agent_certificate("a", key, timedelta(days=100_000))
    found = certificates.certificate_of(signed.chain)
    assert certificates.spiffe_of(found) == "spiffe://test/agent/a"
    assert found.not_valid_after_utc == authority.roots[0][1]
    extensions = found.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("host", ["", "a b", "-", "x" * 254, "münchen.example", "a..b", "http://x"])
def test_a_host_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    """Said when the certificate is made, not when the first agent fails."""
    with pytest.raises(InvalidRequest, match="no host name"):
        Authority.make(tmp_path / "a", "test", [host])


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path, authority: Authority) -> None:
    """One line that says where, and what to do."""
    with pytest.raises(InvalidRequest, match="outrider coordinator init"):
        Authority(tmp_path / "none")
    (authority.folder / "issuer.pem").write_bytes(b"rubbish")
    with pytest.raises(InvalidRequest):
        Authority(authority.folder)


def test_an_anchor_of_33_bytes_verifies_the_server(authority: Authority) -> None:
    """The public key in a token is enough to know the server by; another key is not."""
    anchor = certificates.anchor(authority.point)
    assert serves(authority, anchor)
    assert not serves(authority, certificates.anchor(certificates.point_of(certificates.new_key().public_key())))
    with pytest.raises(InvalidRequest, match="damaged"):
        certificates.anchor(b"\x05" * 33)


@pytest.mark.parametrize("kind", [ApiToken, JoinToken])
def test_tokens_survive_paste_and_nothing_else(kind: type[ApiToken] | type[JoinToken], authority: Authority) -> None:
    """Blanks around are forgiven; a character more, less or other at any place is refused or another token."""
    token = kind("abcd1234", "S" * 32, authority.point)
    assert kind.parse(f"  {token.text}\n") == token
    assert kind.parse(kind("abcd1234", "S" * 32).text).authority_key == b""
    for place in range(len(token.text)):
        altered = token.text[:place] + "!" + token.text[place + 1 :]
        with pytest.raises(InvalidRequest) as caught:
            kind.parse(altered)
        assert "S" * 32 not in str(caught.value)
    for text in ("", "orjoin", "orapi_x_y", token.text + "_x", token.text[:-1], "orother_abcd1234_" + "S" * 32):
        with pytest.raises(InvalidRequest):
            kind.parse(text)


@pytest.mark.parametrize("text", [b"", b"rubbish", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_certificate_or_request_is_refused(text: bytes) -> None:
    """Each reader says what it wanted."""
    for reader in (certificates.load_key, certificates.certificate_of, certificates.request_of):
        with pytest.raises(InvalidRequest):
            reader(text)
