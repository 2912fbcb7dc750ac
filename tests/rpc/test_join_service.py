"""Machines let in and kept out, on real sockets: tokens, certificates, revocation, rotation, and what the log says."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from outrider import certificates
from outrider.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    agent_service_pb2,
    agent_service_pb2_grpc,
    fleet_service_pb2,
    join_service_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
)
from outrider_coordinator.access import audit
from outrider_coordinator.access.authority import Authority
from support.secured import TIMEOUT_S, SecuredCoordinator, join_request
from support.waiting import eventually

UNKNOWN, EXHAUSTED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[SecuredCoordinator]:
    """A coordinator with an authority."""
    with SecuredCoordinator(tmp_path) as made:
        yield made


def refused(call: Any, request: object) -> tuple[grpc.StatusCode, str]:
    """How a call that must fail ended."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=TIMEOUT_S)
    return caught.value.code(), caught.value.details()


def verdicts(secured: SecuredCoordinator, method: str) -> list[str]:
    """What the audit log says of a method, in order."""
    lines = audit.read(secured.state / "audit.log")
    return [line["verdict"] for line in lines if line["what"].endswith(method)]


def session(
    channel: grpc.Channel, name: str
) -> tuple[Iterator[agent_service_pb2.SessionResponse], SimpleQueue[object]]:
    """An agent's session that has said hello; the queue takes further frames, None ends it."""
    frames: SimpleQueue[object] = SimpleQueue()
    hello = agent_service_pb2.Hello(
        agent_id=name, machine_id=f"machine-{name}", instance_id="i", instance_start_ms=1, slots=1
    )
    frames.put(agent_service_pb2.SessionRequest(hello=hello))
    stub = agent_service_pb2_grpc.AgentServiceStub(channel)
    return stub.Session(iter(frames.get, None), timeout=60), frames


def test_a_token_lets_one_machine_in(secured: SecuredCoordinator) -> None:
    """The second machine with the same token is refused, and the log has both."""
    token = secured.join_token()
    answer = secured.join.Join(join_request(token, "a"), timeout=TIMEOUT_S)
    assert answer.agent_id == "a"
    identity = certificates.certificate_of(answer.certificate_chain)
    assert certificates.spiffe_of(identity) == "spiffe://test/agent/a"
    code, text = refused(secured.join.Join, join_request(token, "b"))
    assert code is UNKNOWN
    assert "was used already" in text
    assert verdicts(secured, "JoinService/Join") == ["allowed", "allowed", "UNAUTHENTICATED"]


def test_a_machine_that_lost_the_answer_asks_again(secured: SecuredCoordinator) -> None:
    """The same key with the same token gets a certificate again; under another name it does not."""
    token, key = secured.join_token(), certificates.new_key()
    for _ in range(2):
        assert secured.join.Join(join_request(token, "a", key), timeout=TIMEOUT_S).agent_id == "a"
    assert "under another name" in refused(secured.join.Join, join_request(token, "b", key))[1]


def test_one_token_used_by_many_at_once_lets_one_in(secured: SecuredCoordinator) -> None:
    """Eight machines use one token at the same moment: one joins."""
    token = secured.join_token()
    outcomes: SimpleQueue[bool] = SimpleQueue()
    start = threading.Barrier(8)

    def use(number: int) -> None:
        request = join_request(token, f"a{number}")
        start.wait()
        try:
            secured.join.Join(request, timeout=TIMEOUT_S)
            outcomes.put(True)
        except grpc.RpcError:
            outcomes.put(False)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes.get() for _ in threads) == [False] * 7 + [True]


def test_a_token_that_is_altered_says_nothing(secured: SecuredCoordinator) -> None:
    """Another secret and another id get the same words, which do not tell which of the two is wrong."""
    token = secured.join_token()
    wrong_secret = join_request(token, "a")
    wrong_secret.secret = token.secret[::-1]
    wrong_id = join_request(token, "a")
    wrong_id.token_id = "00000000"
    first, second = refused(secured.join.Join, wrong_secret), refused(secured.join.Join, wrong_id)
    assert first == second
    assert first[0] is UNKNOWN
    assert token.secret not in first[1]
    assert secured.join.Join(join_request(token, "a"), timeout=TIMEOUT_S).agent_id == "a"


def test_a_token_is_bound_to_what_it_was_made_for(secured: SecuredCoordinator) -> None:
    """Name, addresses and revocation: the holder is told what is wrong, and the labels come from the token."""
    named = secured.join_token(agent_id="gpu-1", labels={"gpu": "yes"})
    assert "for an agent called 'gpu-1'" in refused(secured.join.Join, join_request(named, "other"))[1]
    assert secured.join.Join(join_request(named, "gpu-1"), timeout=TIMEOUT_S).labels == {"gpu": "yes"}
    far = secured.join_token(cidrs=["203.0.113.0/24"])
    assert "203.0.113.0/24" in refused(secured.join.Join, join_request(far, "a"))[1]
    revoked = secured.join_token()
    secured.fleet.RevokeJoinToken(fleet_service_pb2.RevokeJoinTokenRequest(token_id=revoked.id), timeout=TIMEOUT_S)
    assert "was revoked" in refused(secured.join.Join, join_request(revoked, "a"))[1]
    brief = fleet_service_pb2.CreateJoinTokenRequest()
    brief.life_duration.FromMicroseconds(1)
    expired = secured.join_token(life_duration=brief.life_duration)
    assert "has expired" in refused(secured.join.Join, join_request(expired, "a"))[1]
    assert (
        "no range of addresses"
        in refused(secured.fleet.CreateJoinToken, fleet_service_pb2.CreateJoinTokenRequest(cidrs=["nowhere"]))[1]
    )


def test_a_name_that_is_taken_is_not_given_away(secured: SecuredCoordinator) -> None:
    """A good token does not replace an agent that is there; one that was revoked may come back with a new token."""
    secured.joined("a")
    assert "there is an agent 'a' already" in refused(secured.join.Join, join_request(secured.join_token(), "a"))[1]
    secured.fleet.RevokeAgent(fleet_service_pb2.RevokeAgentRequest(agent_id="a"), timeout=TIMEOUT_S)
    assert secured.joined("a")


@pytest.mark.parametrize(
    "request_text", [b"", b"rubbish", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_a_certificate_request_that_is_none_loses_nothing(secured: SecuredCoordinator, request_text: bytes) -> None:
    """It is refused as such, and the token stays good."""
    token = secured.join_token()
    request = join_request(token, "a")
    request.certificate_request = request_text
    code, text = refused(secured.join.Join, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "certificate request" in text
    assert secured.join.Join(join_request(token, "a"), timeout=TIMEOUT_S).agent_id == "a"


def test_joining_is_bounded(secured: SecuredCoordinator) -> None:
    """Who asks too often is told when to come back; texts that are too long are refused unread."""
    request = join_request(secured.join_token(), "a")
    request.secret = "x" * 32
    codes = [refused(secured.join.Join, request)[0] for _ in range(30)]
    assert codes[0] is UNKNOWN
    assert codes[-1] is EXHAUSTED
    # Others are not held up: the one who is bounded is the address, and everything else goes on.
    assert secured.access.WhoAmI(access_service_pb2.WhoAmIRequest(), timeout=TIMEOUT_S).name == "local"


def test_an_agent_renews_with_its_key_alone(secured: SecuredCoordinator) -> None:
    """The next certificate takes a signature of the present key; the one before serves until the next but one."""
    key = certificates.new_key()
    present = secured.joined("a", key)

    def renewal(old: certificates.PrivateKey, shown: bytes) -> tuple[join_service_pb2.RenewRequest, bytes]:
        new = certificates.new_key()
        request = certificates.request(new, "a")
        message = join_service_pb2.RenewRequest(
            certificate=shown, certificate_request=request, signature=certificates.sign(old, request)
        )
        return message, certificates.key_pem(new)

    thief, _ = renewal(certificates.new_key(), present)
    code, text = refused(secured.join.Renew, thief)
    assert code is UNKNOWN
    assert "cannot be renewed" in text
    message, new_key = renewal(key, present)
    answer = secured.join.Renew(message, timeout=TIMEOUT_S)
    assert secured.join.Renew(message, timeout=TIMEOUT_S), "a lost answer is asked for again"
    answers, frames = session(secured.by_certificate(answer.certificate_chain + new_key), "a")
    assert next(answers).HasField("welcome")
    frames.put(None)
    stranger = Authority.make(secured.state.parent / "stranger", "test", ["localhost"])
    forged = stranger.agent_certificate("a", key.public_key())
    assert refused(secured.join.Renew, renewal(key, forged.chain)[0])[0] is UNKNOWN
    secured.fleet.RevokeAgent(fleet_service_pb2.RevokeAgentRequest(agent_id="a"), timeout=TIMEOUT_S)
    assert refused(secured.join.Renew, renewal(key, present)[0])[0] is UNKNOWN


def test_a_revoked_agent_is_cut_off_at_once(secured: SecuredCoordinator) -> None:
    """Its open session ends, another one is refused, and both are in the log."""
    identity = secured.joined("a")
    answers, frames = session(secured.by_certificate(identity), "a")
    assert next(answers).HasField("welcome")
    secured.fleet.RevokeAgent(fleet_service_pb2.RevokeAgentRequest(agent_id="a"), timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError) as ended:
        list(answers)
    assert ended.value.code() is UNKNOWN
    frames.put(None)
    again, frames = session(secured.by_certificate(identity), "a")
    with pytest.raises(grpc.RpcError) as caught:
        next(again)
    assert caught.value.code() is UNKNOWN
    assert "was revoked" in caught.value.details()
    frames.put(None)
    assert verdicts(secured, "AgentService/Session") == ["allowed", "ended", "UNAUTHENTICATED"]


def test_an_agent_cannot_go_by_another_name(secured: SecuredCoordinator) -> None:
    """Hello with a name that is not the certificate's is refused, also for a name that nobody has."""
    answers, frames = session(secured.by_certificate(secured.joined("a")), "b")
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    frames.put(None)


def test_labels_of_the_token_win_over_what_the_agent_says(secured: SecuredCoordinator) -> None:
    """An agent cannot make itself more than the operator made it."""
    key = certificates.new_key()
    token = secured.join_token(labels={"trusted": "no"})
    answer = secured.join.Join(join_request(token, "a", key), timeout=TIMEOUT_S)
    channel = secured.by_certificate(answer.certificate_chain + certificates.key_pem(key))
    frames: SimpleQueue[object] = SimpleQueue()
    hello = agent_service_pb2.Hello(
        agent_id="a", machine_id="m", instance_id="i", instance_start_ms=1, slots=1, labels={"trusted": "yes", "x": "y"}
    )
    frames.put(agent_service_pb2.SessionRequest(hello=hello))
    answers = agent_service_pb2_grpc.AgentServiceStub(channel).Session(iter(frames.get, None), timeout=60)
    assert next(answers).HasField("welcome")
    shown = secured.fleet.GetAgent(fleet_service_pb2.GetAgentRequest(agent_id="a"), timeout=TIMEOUT_S).agent
    assert dict(shown.labels) == {"trusted": "no", "x": "y"}
    frames.put(None)


def test_a_revoked_token_ends_its_streams(secured: SecuredCoordinator) -> None:
    """A watch that was opened with it ends at once; so does one of a user whose role is taken."""
    token = secured.token("ann")
    stub = task_service_pb2_grpc.TaskServiceStub(secured.by_token(token))
    for take in (
        lambda: secured.user("ann", "VIEWER"),
        lambda: secured.access.RevokeCredential(
            access_service_pb2.RevokeCredentialRequest(credential_id=f"token:{token.split('_')[1]}"), timeout=TIMEOUT_S
        ),
    ):
        watch = stub.Watch(task_service_pb2.WatchRequest(after_cursor=0), timeout=60)
        next(watch)
        take()
        with pytest.raises(grpc.RpcError) as ended:
            list(watch)
        assert ended.value.code() is UNKNOWN
    assert refused(stub.List, task_service_pb2.ListRequest())[0] is UNKNOWN


def test_certificates_of_users_are_looked_up(secured: SecuredCoordinator) -> None:
    """A user's certificate carries its role and namespaces; removed, it is nobody."""
    identity, _ = secured.certificate("ann", "SUBMITTER", "research")
    who = access_service_pb2_grpc.AccessServiceStub(secured.by_certificate(identity))
    found = who.WhoAmI(access_service_pb2.WhoAmIRequest(), timeout=TIMEOUT_S)
    assert (found.name, found.role, list(found.namespaces)) == ("ann", access_service_pb2.ROLE_SUBMITTER, ["research"])
    secured.access.RemoveUser(access_service_pb2.RemoveUserRequest(name="ann"), timeout=TIMEOUT_S)
    assert refused(who.WhoAmI, access_service_pb2.WhoAmIRequest())[0] is UNKNOWN


@pytest.mark.parametrize(("begin_h", "end_h"), [(-3, -1), (1, 3)], ids=["expired", "not yet valid"])
def test_a_certificate_out_of_its_time_is_refused(
    secured: SecuredCoordinator, monkeypatch: pytest.MonkeyPatch, begin_h: int, end_h: int
) -> None:
    """Signed by the right authority, but over or not begun: the connection does not come about."""
    from outrider_coordinator.access import authority as module

    class Clock(dt.datetime):
        """A clock that goes wrong."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Clock:
            return super().now(tz) + dt.timedelta(hours=begin_h)

    key = certificates.new_key()
    monkeypatch.setattr(module, "datetime", Clock)
    signed = Authority(secured.authority_folder).agent_certificate(
        "a", key.public_key(), dt.timedelta(hours=end_h - begin_h)
    )
    channel = secured.by_certificate(signed.chain + certificates.key_pem(key))
    answers, frames = session(channel, "a")
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    frames.put(None)


def test_the_authority_is_replaced_under_open_sessions(secured: SecuredCoordinator) -> None:
    """Both roots are believed until the old one is retired, which waits for every agent; then the old is refused."""
    old_trust, key = secured.trust, certificates.new_key()
    present = secured.joined("a", key)
    answers, frames = session(secured.by_certificate(present), "a")
    assert next(answers).HasField("welcome")
    roots = secured.access.RotateAuthority(access_service_pb2.RotateAuthorityRequest(), timeout=TIMEOUT_S).roots
    assert [root.signs for root in roots] == [True, False]
    eventually(lambda: next(answers).HasField("renew_certificate"))
    # Who knows only the old root still verifies the server, and is believed.
    identity, _ = secured.certificate("ann", "VIEWER")
    who = access_service_pb2_grpc.AccessServiceStub(secured.by_certificate(identity, old_trust))
    assert who.WhoAmI(access_service_pb2.WhoAmIRequest(), timeout=TIMEOUT_S).name == "ann"
    code, text = refused(secured.access.RetireAuthority, access_service_pb2.RetireAuthorityRequest())
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "'a'" in text
    new = certificates.new_key()
    request = certificates.request(new, "a")
    message = join_service_pb2.RenewRequest(
        certificate=present, certificate_request=request, signature=certificates.sign(key, request)
    )
    answer = secured.join.Renew(message, timeout=TIMEOUT_S)
    secured.access.RetireAuthority(access_service_pb2.RetireAuthorityRequest(), timeout=TIMEOUT_S)
    frames.put(None)
    again, frames = session(
        secured.by_certificate(answer.certificate_chain + certificates.key_pem(new), answer.trust), "a"
    )
    assert next(again).HasField("welcome")
    frames.put(None)
    for trust in (old_trust, answer.trust):  # with the old root it is we who refuse, with the new one the server
        late, frames = session(secured.by_certificate(present, trust), "a")
        with pytest.raises(grpc.RpcError) as caught:
            next(late)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        frames.put(None)


def test_every_port_serves_with_the_new_authority(tmp_path: Path) -> None:
    """A coordinator with two ports for certificates: after a rotation both show the new chain, and believe it."""
    with SecuredCoordinator(tmp_path, "--listen", "127.0.0.1:0") as secured:
        document = json.loads((secured.state / "addresses.json").read_text())
        ports = [address for address in document["addresses"] if not address.startswith("unix:")]
        assert len(ports) == 2
        secured.access.RotateAuthority(access_service_pb2.RotateAuthorityRequest(), timeout=TIMEOUT_S)
        secured.access.RetireAuthority(access_service_pb2.RetireAuthorityRequest(), timeout=TIMEOUT_S)
        identity, _ = secured.certificate("ann", "VIEWER")
        for address in ports:
            secured.address = address
            who = access_service_pb2_grpc.AccessServiceStub(secured.by_certificate(identity))
            assert who.WhoAmI(access_service_pb2.WhoAmIRequest(), timeout=TIMEOUT_S).name == "ann"


def test_who_was_let_in_is_known_after_a_kill(secured: SecuredCoordinator) -> None:
    """Tokens, users, agents and what was used up outlive kill -9; so does the audit log, whole."""
    api, used = secured.token("ann"), secured.join_token()
    identity = certificates.new_key()
    answer = secured.join.Join(join_request(used, "a", identity), timeout=TIMEOUT_S)
    secured.process.kill()
    secured.start()
    who = access_service_pb2_grpc.AccessServiceStub(secured.by_token(api))
    assert who.WhoAmI(access_service_pb2.WhoAmIRequest(), timeout=TIMEOUT_S).name == "ann"
    assert "was used already" in refused(secured.join.Join, join_request(used, "b"))[1]
    channel = secured.by_certificate(answer.certificate_chain + certificates.key_pem(identity))
    answers, frames = session(channel, "a")
    assert next(answers).HasField("welcome")
    frames.put(None)
    count, flaw = audit.verify(secured.state / "audit.log")
    assert flaw is None
    assert count >= 6
