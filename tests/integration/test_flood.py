"""The relay under attack: floods from spoofed sources, beside a thousand established flows and clients that come anew.

Nothing of the established flows is lost, no flow moves, tables and memory stay flat, a newcomer is served. What the
kernel's sockets dropped counts as lost, and is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asker import binding_request
from tests.support.attacked import FLOWS, AttackedRelay, Course, Load
from tests.support.netns import Namespaces

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

EVERYDAY = Load(media_pps=5_000, flood_pps=20_000, least_pps=2_000, sources=20_000, seconds=2)
# Longer than the 12 s of silence after which an owner may lose a flow to a contender.
FULL = Load(media_pps=20_000, flood_pps=100_000, least_pps=90_000, sources=100_000, seconds=15)
LOADS = [pytest.param(EVERYDAY, id="everyday"), pytest.param(FULL, id="full", marks=pytest.mark.full)]
LONG = [pytest.param(EVERYDAY, id="short", marks=pytest.mark.full), LOADS[1]]  # of each kind one is run every day

# What one token is forwarded beside its flows, by two workers (relay.worker, forward.pyx): at once, and each second.
ASKED_AT_ONCE, ASKED_PER_S = 2 * 96, 2 * 32
# 8 in a relay, one more where two workers open in the same moment; and the workers are read one after the other.
TOKEN_FLOWS_MOST = 2 * 8
NEWCOMER_MOST_S = 1.0
# Of each worker: the arena of a batch, which is touched as far as batches ever grew (docs/wire.md, 3).
ARENA_BYTES = 1_134_592
RSS_SLACK_BYTES = 1 << 20


@pytest.fixture
def attacked(namespaces: Namespaces, key_file: Path, tmp_path: Path) -> Iterator[AttackedRelay]:
    with AttackedRelay(namespaces, key_file, tmp_path) as attacked:
        yield attacked
    print(json.dumps({"owner": attacked.owner.result, "attacker's owner": attacked.attackers.result}))
    assert attacked.owner.result["misrouted"] == attacked.owner.result["bad_headers"] == 0
    assert attacked.attackers.result["packets"] == attacked.attackers.result["checks"]  # no media went astray


def show(name: str, course: Course) -> None:
    """For `pytest -s`."""
    flows = [look.sum("flows") for look in course.during]
    print(f"\n{name}: flood {json.dumps(course.flood)}")
    print(f"clients {json.dumps(course.clients)}")
    print(f"newcomers {len(course.newcomers_s)}, slowest {max(course.newcomers_s):.3f} s; flows at most {max(flows)}")
    print(f"RSS grown by {max(look.rss_bytes for look in course.during) - course.before.rss_bytes}; {course.drops}")
    for name, labels in sorted(course.after.samples):
        if name in ("ufrag_relay_forwarded_total", "ufrag_relay_drops_total", "ufrag_relay_flows_evicted_total"):
            value = course.after.samples[name, labels]
            if value:
                print(name, dict(labels), int(value))


def assert_unharmed(course: Course, foreign: int = 0) -> None:
    """What holds whatever the attack; `foreign` answers are those that an owner gave to the attacker's checks."""
    clients = course.clients
    assert course.outlived
    assert course.flood["send_errors"] == 0
    assert course.drops == {"client": {}, "server": {}}
    assert clients["checks_sent"] == clients["checks_answered"]
    noted = ("lost", "corrupted", "misdirected", "duplicated", "foreign", "send_errors")
    assert {name: clients[name] for name in noted} == dict.fromkeys(noted, 0) | {"foreign": foreign}
    assert max(course.newcomers_s) < NEWCOMER_MOST_S
    assert_flat(course)
    assert course.after.sum("flows_moved_total") == course.after.sum("worker_restarts_total") == 0
    newcomers = 2 * len(course.newcomers_s)  # a check and a packet of media each, if none had to be repeated
    sent = clients["sent"] + clients["checks_sent"] + course.flood["sent"] + newcomers
    assert course.after.sum("packets_total", direction="up") >= sent


def asked_most(load: Load) -> float:
    return ASKED_AT_ONCE + ASKED_PER_S * (load.seconds + 2)


def say_if_lesser(course: Course, load: Load) -> None:
    """The last word of each test: a machine that cannot attack at that rate passes nothing, it says what it did."""
    if course.flood["pps"] < load.least_pps:
        pytest.xfail(f"unharmed, but this machine could send only {course.flood['pps']} of {load.flood_pps} packets/s")


def assert_flat(course: Course) -> None:
    newcomers = len(course.newcomers_s)
    assert course.before.sum("flows") == FLOWS
    for look in course.during:
        assert look.sum("flows", state="established") >= FLOWS
        assert look.sum("flows") <= FLOWS + newcomers + TOKEN_FLOWS_MOST
        assert look.rss_bytes - course.before.rss_bytes <= 2 * ARENA_BYTES + RSS_SLACK_BYTES


@pytest.mark.parametrize("load", LOADS)
def test_forged_tokens_from_many_sources(attacked: AttackedRelay, load: Load) -> None:
    check = binding_request(attacked.tokens[0])
    flood = attacked.flood([check], sources=load.sources, forge=True, rate=load.flood_pps, seconds=load.seconds)
    course = attacked.attack(load, flood)
    show("forged tokens", course)
    assert_unharmed(course)
    assert course.grown("drops_total", reason="token_forged") == course.flood["sent"]
    assert course.after.sum("flows_created_total") <= FLOWS + len(course.newcomers_s)
    assert course.after.sum("flows_evicted_total") == 0
    assert attacked.towards_nobody() == (0, 0)
    say_if_lesser(course, load)


@pytest.mark.parametrize("load", LOADS)
def test_a_clients_own_token_from_many_sources(attacked: AttackedRelay, load: Load) -> None:
    """As somebody could who saw one check: the token has 8 flows, and the client's own is always among them."""
    check = binding_request(attacked.tokens[0])
    flood = attacked.flood([check], sources=load.sources, rate=load.flood_pps, seconds=load.seconds)
    course = attacked.attack(load, flood)
    packets, bytes_out = attacked.towards_nobody()
    show("one token sprayed", course)
    print(f"towards spoofed sources: {packets} packets, {bytes_out} bytes with headers")
    assert_unharmed(course)
    # A source whose flow lives is answered as any client; all the others are refused before they cost anything.
    opened = course.grown("forwarded_total", reason="opened") - len(course.newcomers_s)
    refused = sum(course.grown("drops_total", reason=reason) for reason in ("token_full", "prefix_full", "token_busy"))
    assert opened >= 6  # one less than there is room for: a newcomer may have had another's port
    assert course.grown("drops_total", reason="token_busy") > 0
    assert opened <= asked_most(load)
    assert opened - course.grown("flows_evicted_total") < TOKEN_FLOWS_MOST
    assert packets <= course.flood["sent"] - refused
    say_if_lesser(course, load)


@pytest.mark.parametrize("load", LONG)
def test_a_token_without_its_password_from_many_sources(attacked: AttackedRelay, load: Load) -> None:
    """No owner answers, so each check makes a flow and pushes out one of the token's own, up to the rate of tokens."""
    check = binding_request(attacked.mint(attacked.silent)[0])
    flood = attacked.flood([check], sources=load.sources, rate=load.flood_pps, seconds=load.seconds)
    course = attacked.attack(load, flood)
    show("one token sprayed, nobody answers", course)
    assert_unharmed(course)
    opened = course.grown("forwarded_total", reason="opened") - len(course.newcomers_s)
    assert ASKED_AT_ONCE / 2 <= opened <= asked_most(load)
    assert course.grown("drops_total", reason="token_busy") >= course.flood["sent"] - asked_most(load)
    assert opened - course.grown("flows_evicted_total") <= TOKEN_FLOWS_MOST
    assert attacked.towards_nobody() == (0, 0)
    say_if_lesser(course, load)


@pytest.mark.parametrize("load", LONG)
def test_checks_of_the_attackers_session_from_the_flows_addresses(attacked: AttackedRelay, load: Load) -> None:
    """They reach the attacker's own owner; its answers reach nobody, since each flow's owner is alive."""
    (token,) = attacked.mint(attacked.attackers)
    flood = attacked.flood([binding_request(token)], from_flows=True, rate=load.flood_pps, seconds=load.seconds)
    course = attacked.attack(load, flood)
    show("spoofed from live flows, another owner", course)
    assert_unharmed(course)
    contended = course.grown("forwarded_total", reason="contended")
    assert ASKED_AT_ONCE / 2 <= contended <= asked_most(load)
    assert contended + course.grown("drops_total", reason="token_busy") == course.flood["sent"]
    assert course.grown("drops_total", reason="owner_live") == contended
    assert course.after.sum("flows_evicted_total") == 0
    say_if_lesser(course, load)


@pytest.mark.parametrize("load", LONG)
def test_checks_of_a_session_with_the_same_owner_from_the_flows_addresses(attacked: AttackedRelay, load: Load) -> None:
    """As an ICE restart would look: forwarded and answered, and no flow takes the attacker's token."""
    (token,) = attacked.mint(attacked.owner)
    flood = attacked.flood([binding_request(token)], from_flows=True, rate=load.flood_pps, seconds=load.seconds)
    course = attacked.attack(load, flood)
    show("spoofed from live flows, the same owner", course)
    restarts = course.grown("forwarded_total", reason="restart")
    assert ASKED_AT_ONCE / 2 <= restarts <= asked_most(load)
    assert_unharmed(course, foreign=restarts)
    assert restarts + course.grown("drops_total", reason="token_busy") == course.flood["sent"]
    assert course.after.sum("flows_evicted_total") == 0
    say_if_lesser(course, load)
