"""`relay explain` and the words for verdicts; what decides is tested elsewhere, and is the same code."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from _fastpath.verdicts import VERDICTS_BY_NUMBER
from _fastpath.wire.token import Keyring
from relay import explain, tools
from relay.runtime.config import Network, parse_address
from relay.verdicts import MEANINGS
from tests.support.harness import KEYS, token
from tests.support.packets import RTP, answer, check, framed

CLIENT, LOCAL, OWNER = (parse_address(text) for text in ("198.51.100.1:50000", "192.0.2.1:3478", "10.1.2.3:4000"))
OTHER = parse_address("10.9.9.9:4000")
ANYWHERE: Sequence[Network] = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]


def ask(datagram: bytes, **more: Any) -> dict[str, str]:
    fields: dict[str, Any] = {"client": CLIENT, "local": LOCAL, "keyring": Keyring(KEYS), "backends": ANYWHERE} | more
    return dict(explain.explain(explain.Question(datagram, **fields)))


def test_every_verdict_has_words_and_says_whether_it_forwards() -> None:
    named = {(way, reason): forwarded for way, forwarded, reason in VERDICTS_BY_NUMBER if way}
    assert MEANINGS.keys() == named.keys()
    for verdict, words in MEANINGS.items():
        assert words.startswith("forwarded" if named[verdict] else "dropped: "), verdict


def test_a_check_is_taken_apart() -> None:
    said = ask(check(token()))
    assert said["kind"] == "stun, first byte 0"
    assert said["username"] == f"{token()}:h6vY"
    assert said["token"] == "verified with key 0: owner 10.1.2.3:4000"
    assert said[""] == "cluster 5, generation 9, random 010000000000"
    assert said["verdict"].startswith("opened: forwarded")
    assert said["sent"] == f"{len(check(token())) + 38} bytes to 10.1.2.3:4000"


@pytest.mark.parametrize(
    ("datagram", "more", "verdict"),
    [
        (b"", {}, "too_short"),
        (RTP, {}, "no_flow"),
        (RTP, {"owner": OWNER}, "media"),
        (check(token()[:-4] + "AAAA"), {}, "token_forged"),
        (check("evtj"), {}, "no_token"),
        (check(token()), {"keyring": Keyring({3: KEYS[3]})}, "token_key"),
        (check(token()), {"backends": [ipaddress.ip_network("192.168.0.0/16")]}, "foreign_owner"),
        (check(token()), {"owner": OWNER}, "restart"),
        (check(token()), {"owner": OTHER}, "contended"),
        (check(token()), {"client": parse_address("224.0.0.1:5")}, "bad_source"),
        (framed(CLIENT.sockaddr, LOCAL.sockaddr, RTP), {"owner": OWNER, "sender": OWNER}, "media"),
        (framed(CLIENT.sockaddr, LOCAL.sockaddr, answer()), {"owner": OWNER, "sender": OTHER}, "not_next_hop"),
        (framed(CLIENT.sockaddr, LOCAL.sockaddr, RTP), {"sender": OWNER}, "no_flow"),
        (b"nonsense", {"sender": OWNER}, "bad_envelope"),
        (bytes(5000), {}, "truncated"),
    ],
)
def test_verdicts(datagram: bytes, more: dict[str, Any], verdict: str) -> None:
    said = ask(datagram, **more)
    assert said["verdict"].partition(":")[0] == verdict
    assert (said["sent"] == "nothing") == ("dropped" in said["verdict"])


def test_ipv6_all_the_way() -> None:
    client, local = parse_address("[2001:db8::1]:9"), parse_address("[2001:db8::2]:3478")
    said = ask(check(token(("fd00:1::3", 4000))), client=client, local=local)
    assert said["verdict"].startswith("opened")
    assert said["sent"].endswith(" bytes to [fd00:1::3]:4000")


def test_what_stands_in_a_datagram_does_not_steer_the_terminal() -> None:
    assert "\x1b" not in "".join(ask(check(b"\x1b[2J" + b"a" * 30)).values())


@pytest.mark.parametrize("text", ["0001 0203", "00:01:02:03", "0x00010203", "0001\n0203\n"])
def test_hex_as_people_have_it(text: str) -> None:
    assert explain.read_hex(text) == bytes(range(4))


def test_the_command(tmp_path: Path) -> None:
    keys = tmp_path / "route.key"
    keys.write_text(f"0:{KEYS[0].hex()}\n")
    keys.chmod(0o600)
    words = ["--route-key-file", str(keys)]
    runner = CliRunner()
    given = runner.invoke(tools.explain, ["-", *words], input=check(token()).hex())
    assert given.exit_code == 0, given.output
    assert "verdict   opened: " in given.output
    assert "no hex digits" in str(runner.invoke(tools.explain, ["xyz", *words]).exception)
