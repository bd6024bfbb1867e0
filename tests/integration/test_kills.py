"""Death at any instruction: a worker under load is killed at each point where it could lose, double or misroute
something, and does not.

What is sent twice is known to the packet: a message that had left when its worker died, and had no verdict yet. Points
are those of `benchmarks/native/killer.c`; at `twice` the successor is killed, too, when it has finished sending what it
found, so that the third worker of the batch counts it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from socket import SOCK_DGRAM

import pytest
from _pytest.mark import ParameterSet

from benchmarks.support import Echo, Generator, Result, free_port, mint_tokens, write_tokens
from tests.support.killer import WORKERS, kill_workers, load_times, skip_unless_possible, summary
from tests.support.relays import Relay, until

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine", "killer")]

FLOWS = 500
BATCH_MAX = 512  # _fastpath/batch.pxd
KILLS = [pytest.param(5, id="5"), pytest.param(100, id="100", marks=pytest.mark.full)]
POINTS = ("received", "half-sent", "sent", "anywhere", "twice")
EVERYDAY = ("half-sent", "twice")  # between them they pass all that the others do

OWNERS = 3
NEW_FLOWS_PER_S = 1500
FLOWS_A_TOKEN = 4
STRANGERS, STRANGERS_PER_S = 3000, 300
# Strangers leave a second after they came, so that there is always something to free.
CHURN_OPTIONS = ("--flow-timeout", "600", "--half-open-timeout", "1", "--max-new-per-network", "0")


def each(at: str) -> ParameterSet:
    return pytest.param(at, 100, marks=pytest.mark.full)


@pytest.fixture(scope="module")
def killer() -> None:
    skip_unless_possible()


def assert_whole(result: Result) -> None:
    assert (result["lost"], result["corrupted"], result["misdirected"], result["foreign"]) == (0, 0, 0, 0)
    assert result["checks_answered"] == result["checks_sent"]


def assert_all_lived_on(relay: Relay, kills: int, flows: int) -> None:
    """As many new workers as were killed, none of them by the launcher; every flow is there, and the books balance."""
    assert relay.total("ufrag_relay_worker_restarts_total") == kills
    assert "hung" not in relay.log()
    assert relay.total("ufrag_relay_socket_drops_total") == 0
    assert relay.total("ufrag_relay_flows", state="established") == flows
    relay.check_books()


def packets_in(relay: Relay) -> dict[str, float]:
    return {way: relay.total("ufrag_relay_packets_total", direction=way) for way in ("up", "down")}


def assert_counted_once(taken: dict[str, float], offered: list[Result], owners: list[Echo]) -> None:
    """Though many a batch was begun by one worker and finished by another. What went up twice was answered twice."""
    assert taken["up"] == sum(result["sent"] + result["checks_sent"] for result in offered)
    assert taken["down"] == sum(owner.result["sent"] for owner in owners)
    assert [owner.result["misrouted"] for owner in owners] == [0] * len(owners)


@pytest.mark.parametrize(("at", "kills"), [*((at, 5) for at in EVERYDAY), *(each(at) for at in POINTS)])
def test_killed_with_packets_in_hand(at: str, kills: int, key_file: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        owner = stack.enter_context(Echo(0))
        relay = stack.enter_context(Relay(key_file, workers=WORKERS, cpus="auto"))
        tokens = write_tokens(tmp_path / "tokens", mint_tokens(key_file, [owner.address], FLOWS))
        rate = 20_000 if at == "anywhere" else 5000  # there must be work to be interrupted
        generator = Generator(relay.target, tokens, flows=FLOWS, rate=rate, **load_times(at, kills))
        with generator:
            deaths = kill_workers(relay, generator, at, kills)
        result = generator.result
        duplicates = result["duplicated"] + result["checks_duplicated"]
        resumed = relay.total("ufrag_relay_batches_resumed_total")
        print("\n" + summary(at, deaths, duplicates, resumed))
        assert len(deaths) == kills
        assert_whole(result)
        lives = 2 if at == "twice" else 1
        assert_all_lived_on(relay, kills * lives, FLOWS)
        taken = packets_in(relay)
    assert_counted_once(taken, [result], [owner])
    if at == "anywhere":
        assert duplicates <= resumed * BATCH_MAX
    else:
        assert resumed == kills * lives
        assert duplicates == (0 if at == "received" else sum(death["sent"] for death in deaths))


class Churn:
    """Clients that come at a rate: those of the owners, which stay, and strangers, whose owners are not there: each
    brings a new peer and leaves again half-open."""

    def __init__(self, relay: Relay, key_file: Path, owners: list[Echo], folder: Path, seconds: float) -> None:
        self.relay = relay
        self.count = int(NEW_FLOWS_PER_S * seconds)
        self.port = free_port(SOCK_DGRAM)
        addresses = [owner.address for owner in owners]
        self.tokens = write_tokens(folder / "new", mint_tokens(key_file, addresses, self.count // FLOWS_A_TOKEN))
        nobody = [f"127.9.{number >> 8}.{number & 255}:9" for number in range(1, STRANGERS + 1)]
        strange = write_tokens(folder / "strange", mint_tokens(key_file, nobody, STRANGERS))
        self.new = self.generator("checks", self.count, NEW_FLOWS_PER_S, seconds)
        self.strangers = Generator(
            relay.target, strange, flows=int(STRANGERS_PER_S * seconds), rate=STRANGERS_PER_S, seconds=seconds,
            mode="checks", skip_setup=True, check_interval=0, burst=1, source_base="127.32.0.0",
        )  # fmt: skip

    def generator(self, mode: str, flows: int, rate: int, seconds: float) -> Generator:
        return Generator(
            self.relay.target, self.tokens, flows=flows, port=self.port, rate=rate, seconds=seconds, mode=mode,
            skip_setup=True, check_interval=0, owners=OWNERS, source_base="127.24.0.0",
        )  # fmt: skip

    def ask_all(self, made: int) -> Result:
        """A packet to each of the flows that were made, from the address it was made for."""
        rate = 10_000
        return self.generator("media", made, rate, made / rate).run()


@pytest.mark.parametrize(("at", "kills"), [("table", 5), each("instruction"), each("table")])
def test_killed_while_flows_are_made(at: str, kills: int, key_file: Path, tmp_path: Path) -> None:
    """Anywhere within making flows, indexes, chains of tokens and peers, while others are freed; or, at `table`, within
    the functions that write the table, which are the smaller part of it."""
    times = load_times(at, kills)
    with ExitStack() as stack:
        owners = [stack.enter_context(Echo(index)) for index in range(OWNERS)]
        relay = stack.enter_context(Relay(key_file, workers=WORKERS, cpus="auto", extra=CHURN_OPTIONS))
        churn = Churn(relay, key_file, owners, tmp_path, times["seconds"])
        tokens = write_tokens(tmp_path / "steady", mint_tokens(key_file, [owner.address for owner in owners], FLOWS))
        steady = Generator(relay.target, tokens, flows=FLOWS, rate=3000, owners=OWNERS, **times)
        with churn.new, churn.strangers, steady:
            deaths = kill_workers(relay, steady, at, kills)
            churn.strangers.wait()
            made = churn.new.wait()
        duplicates = steady.result["duplicated"] + steady.result["checks_duplicated"] + made["checks_duplicated"]
        print("\n" + summary(at, deaths, duplicates, relay.total("ufrag_relay_batches_resumed_total")))
        assert len(deaths) == kills
        assert_whole(steady.result)
        assert (made["lost"], made["corrupted"], made["misdirected"], made["foreign"]) == (0, 0, 0, 0)
        assert duplicates <= sum(death["sent"] for death in deaths)
        asked = churn.ask_all(made["sent"])
        assert_whole(asked)
        until(lambda: relay.total("ufrag_relay_flows", state="half_open") == 0)
        assert_all_lived_on(relay, kills, FLOWS + made["sent"])
        taken = packets_in(relay)
    assert_counted_once(taken, [steady.result, made, churn.strangers.result, asked], owners)
