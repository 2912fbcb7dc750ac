"""The book of who may call: what is kept, what is not, and what a damaged or newer file does."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from outrider.credentials import ApiToken
from outrider.errors import InvalidRequest, NotFound, OutriderError, Unauthenticated
from outrider_coordinator.access.book import NAMED, Book, JoinGrant, Machine
from outrider_coordinator.access.principals import Role

SECOND_US = 1_000_000


class Clock:
    """A wall clock that stands until it is moved."""

    def __init__(self) -> None:
        self.us = 1_000 * SECOND_US

    def __call__(self) -> int:
        """Now."""
        return self.us


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> Book:
    """An empty book."""
    return Book(tmp_path / "access.sqlite", clock)


def a_machine(name: str, point: str) -> Machine:
    """An identity."""
    return Machine(name, point, "1", 0, 0, 0, "root")


def a_grant(book: Book, **facts: object) -> tuple[str, str, JoinGrant]:
    """Id, secret and facts of a join token."""
    options: dict[str, object] = {"created_by": "ann", "life_us": 60 * SECOND_US} | facts
    token, grant = book.new_join_token(b"", **options)  # type: ignore[arg-type]
    return token.id, token.secret, grant


def test_no_secret_is_in_the_file(book: Book, tmp_path: Path) -> None:
    """Neither tokens nor join tokens can be read from the file, its log or its name."""
    book.put_user("ann", Role.VIEWER, ())
    api, _ = book.new_api_token(b"", "ann", SECOND_US)
    _, secret, _ = a_grant(book)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"ann" in written
    assert api.secret.encode() not in written
    assert secret.encode() not in written


def test_a_token_stands_for_its_user_until_it_ends(book: Book, clock: Clock) -> None:
    """Right secret: known; another secret: not; after its end, a revocation or the user's removal: nobody."""
    book.put_user("ann", Role.SUBMITTER, ("b", "a", "a"))
    token, kept = book.new_api_token(b"", "ann", 60 * SECOND_US)
    assert book.credential_of(token) == kept
    assert book.credential_of(ApiToken(token.id, "x" * 32)) is None
    assert book.credential_of(ApiToken("00000000", token.secret)) is None
    standing = book.standing(kept.id)
    assert standing is not None
    assert (standing.name, standing.role, standing.namespaces) == ("ann", Role.SUBMITTER, ("a", "b"))
    clock.us += 60 * SECOND_US
    assert book.standing(kept.id) is None
    clock.us -= SECOND_US
    book.revoke(kept.id)
    assert book.standing(kept.id) is None
    other, other_kept = book.new_api_token(b"", "ann", 60 * SECOND_US)
    assert [one.id for one in book.remove_user("ann")] == [other_kept.id]
    assert book.standing(other_kept.id) is None
    assert book.credential_of(other) is not None, "who asks is told that it was revoked"


def test_who_is_not_there_is_named(book: Book) -> None:
    """Orders about users, credentials, tokens and agents that do not exist say what to do."""
    for order in (
        lambda: book.new_api_token(b"", "nobody", 1),
        lambda: book.remove_user("nobody"),
        lambda: book.revoke("token:none"),
        lambda: book.revoke_join_token("none"),
        lambda: book.revoke_machine("none"),
    ):
        with pytest.raises(NotFound, match="`outrider"):
            order()


def test_a_join_token_is_used_up(book: Book) -> None:
    """Two uses: two keys; the third is refused, the first two may ask again."""
    token_id, secret, _ = a_grant(book, uses=2)
    for name in ("a", "b"):
        book.joined(book.admits(token_id, secret, "", name, f"key-{name}"), a_machine(name, f"key-{name}"))
    with pytest.raises(Unauthenticated, match="was used already"):
        book.admits(token_id, secret, "", "c", "key-c")
    again = book.admits(token_id, secret, "", "a", "key-a")
    book.joined(again, a_machine("a", "key-a"))
    assert book.joins[token_id].uses_left == 0
    assert book.good_joins() == []


def test_a_range_that_is_none_is_refused(book: Book) -> None:
    """A CIDR is checked when the token is made; an address that is none is in no range."""
    with pytest.raises(InvalidRequest, match="no range of addresses"):
        a_grant(book, cidrs=("10.0.0.0/99",))
    token_id, secret, grant = a_grant(book, cidrs=("10.1.2.3/8",))
    assert grant.cidrs == ("10.0.0.0/8",)
    assert book.admits(token_id, secret, "10.9.9.9", "a", "key")
    for peer in ("192.0.2.1", "unix:", "fe80::1"):
        with pytest.raises(Unauthenticated, match=r"10\.0\.0\.0/8"):
            book.admits(token_id, secret, peer, "a", "key")


def test_everything_is_there_after_a_restart(book: Book, tmp_path: Path, clock: Clock) -> None:
    """What was answered is read again, with every field."""
    book.put_user("ann", Role.OPERATOR, ("a",))
    book.new_api_token(b"", "ann", SECOND_US)
    book.add_certificate("ann", "beef", 7)
    token_id, secret, _ = a_grant(book, agent="a", labels={"x": "y"}, cidrs=("10.0.0.0/8",))
    book.joined(book.admits(token_id, secret, "10.0.0.1", "a", "key"), a_machine("a", "key"))
    book.revoke_machine("a")
    book.put_user("bob", Role.VIEWER, ())
    book.remove_user("bob")
    again = Book(tmp_path / "access.sqlite", clock)
    for name in NAMED:
        assert getattr(again, name) == getattr(book, name), name
    assert list(again.users) == ["ann"]


def test_a_file_that_is_wrong_is_refused(tmp_path: Path, clock: Clock) -> None:
    """Newer, damaged, or with a fact that this version cannot read: one line that names the file."""
    path = tmp_path / "access.sqlite"
    Book(path, clock).close()
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 99")
    with pytest.raises(InvalidRequest, match="newer version"):
        Book(path, clock)
    connection.execute("PRAGMA user_version = 1")
    connection.execute("INSERT INTO fact VALUES ('user', 'x', '{')")
    connection.close()
    with pytest.raises(InvalidRequest, match="restore it from a backup"):
        Book(path, clock)
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(InvalidRequest, match="restore it from a backup"):
        Book(path, clock)


def test_what_cannot_be_written_changes_nothing(book: Book) -> None:
    """A full or lost disk: an error, and memory says what the file says."""
    book.put_user("ann", Role.VIEWER, ())
    book.close()
    with pytest.raises(OutriderError, match="cannot be written"):
        book.put_user("ann", Role.ADMIN, ())
    assert book.users["ann"].role == "VIEWER"
