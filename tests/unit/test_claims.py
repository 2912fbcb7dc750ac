"""Claims of limits as people write them, and what they become."""

from __future__ import annotations

import pytest

from outrider.claims import Claim
from outrider.errors import InvalidRequest
from outrider.work import Options, command_spec


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("db", Claim("db")),
        ("db:main", Claim("db:main")),
        ("db:main:3", Claim("db:main", units=3)),
        ("file:a.py:shared", Claim("file:a.py", shared=True)),
        ("port:8080:1", Claim("port:8080")),
        (":7", Claim(":7")),
        ("shared", Claim("shared")),
    ],
)
def test_a_claim_in_words(text: str, claim: Claim) -> None:
    """What follows the last colon counts when it is a number or `shared`; else it belongs to the name."""
    assert Claim.parse(text) == claim


@pytest.mark.parametrize("claim", ["", "x:0", "k" * 201, Claim("k", True, 2), Claim("k", units=-1)])
def test_a_claim_that_cannot_be_is_refused(claim: str | Claim) -> None:
    """A name that is empty or too long, no units, and units of a shared claim are refused before anything is sent."""
    with pytest.raises(InvalidRequest, match="limit"):
        command_spec(["true"], Options(limits=[claim]))


def test_options_become_claims_and_scopes() -> None:
    """The options `limits` and `write_scopes` travel in the task's spec."""
    spec = command_spec(["true"], Options(limits=["db:2", Claim("f", shared=True)], write_scopes=["src/**"]))
    assert [(claim.key, claim.shared, claim.units) for claim in spec.limits] == [("db", False, 2), ("f", True, 1)]
    assert list(spec.write_scopes) == ["src/**"]
