"""Under which names a client is asked in the midst of an ICE restart: libwebrtc answers what mirrors its checks only,
and it may pair its new candidates with our old ones for good (seen with Chromium 156, one restart in four)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from _fastpath.wire import binding
from tests.support.media_rig import Address, Line, Rig, Sent
from tests.support.world import CLUSTER, GENERATION, ICE_KEY, OWN
from transceiver.ice import derive_pwd

BEFORE: Address = ("198.51.100.1", 50_000)
AFTER: Address = ("198.51.100.1", 50_001)
ASK_S = 6.0  # the longest pause between two requests to a path in use
REPEAT_S = 1.01


@dataclass(frozen=True)
class Asked:
    where: Address
    names: str
    password: str  # the client's that it is made with


class Restarting(Line):
    """A client that changes its side first and hears of the server's later."""

    def renew(self) -> None:
        self.old_ufrag, self.old_pwd = self.ufrag, self.remote_pwd
        self.ufrag, self.remote_pwd = "new1", "the-clients-new-password"

    def answered(self) -> str:
        """The offer arrives: a new token, which the client does not use yet."""
        token = self.rig.keyring.mint(1, OWN, CLUSTER, GENERATION)
        self.add_credential(token, derive_pwd(ICE_KEY, token))
        self.rig.rest()
        return token

    def use(self, token: str) -> None:
        self.token, self.pwd = token, derive_pwd(ICE_KEY, token)

    def asked(self, sent: Sequence[Sent]) -> list[Asked]:
        found = []
        for client, _relay, datagram in sent:
            result, fields = binding.parse(datagram)
            if result == "ok" and fields and fields.kind == binding.REQUEST and fields.username:
                known = (each for each in (self.remote_pwd, self.old_pwd) if binding.verify(datagram, each.encode()))
                found.append(Asked(client, fields.username.decode(), next(known, "")))
        return found


def talking() -> tuple[Rig, Restarting]:
    rig = Rig()
    line = Restarting(rig, 0, BEFORE)
    line.open(echo=False)
    line.prove()
    rig.up(line.media(), BEFORE)
    return rig, line


def active(rig: Rig) -> str:
    return rig.slot.session(0).client


def test_a_new_candidate_may_stay_with_the_old_token() -> None:
    rig, line = talking()
    line.renew()
    _, sent = rig.up(line.check(), AFTER)
    assert line.asked(sent) == [Asked(AFTER, f"{line.old_ufrag}:{line.token}", line.old_pwd)]  # it knows no better yet
    line.answered()
    _, sent = rig.up(line.check(), AFTER)
    asked = line.asked(sent) or line.asked(rig.rest(0.1))
    assert asked == [Asked(AFTER, f"{line.ufrag}:{line.token}", line.remote_pwd)]
    line.prove(AFTER)
    rig.up(line.media(), AFTER)
    rig.rest()
    assert active(rig) == f"{AFTER[0]}:{AFTER[1]}"


def test_the_old_path_is_asked_under_its_own_names_after_the_new_ones_were_used() -> None:
    rig, line = talking()
    names = Asked(BEFORE, f"{line.ufrag}:{line.token}", line.remote_pwd)
    line.renew()
    token = line.answered()
    line.use(token)
    rig.up(line.check(), AFTER)  # never proven: its answers get lost
    asked = [each for each in line.asked(rig.rest(ASK_S)) if each.where == BEFORE]
    assert asked[0] == names


def test_a_copy_of_an_old_check_does_not_hide_the_client() -> None:
    """It makes the first request bear names that the client knows no more; the next one bears those it does."""
    rig, line = talking()
    copy = line.check()
    line.renew()
    line.use(line.answered())
    rig.up(line.check(), BEFORE)
    rig.rest()
    rig.up(copy, BEFORE)
    sent: list[Sent] = []
    for _ in range(4):
        sent += rig.rest(ASK_S / 4)
    sent += rig.rest(REPEAT_S)
    asked = line.asked(sent)
    assert [each.password for each in asked[:2]] == [line.old_pwd, line.remote_pwd]
    assert asked[1].names == f"{line.ufrag}:{line.token}"
