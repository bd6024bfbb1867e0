"""The check of the route cache. Redis is never needed for a start, so nothing here is more than a warning."""

from __future__ import annotations

from relay.doctor.findings import Finding, ok, shown, warning
from relay.doctor.machine import Machine
from relay.redis_store import FLOW_BYTES
from relay.runtime.redis_client import RedisDown
from relay.settings import Settings


def check_redis(machine: Machine, settings: Settings) -> Finding:
    """Whether it answers, and has room for all flows of `--max-flows`."""
    if settings.redis is None:
        return ok("redis", "none: flows are known to this host and to the clients' checks")
    place = settings.redis.place
    try:
        servers = machine.redis_info(place)
    except RedisDown as error:
        mend = "The relay starts without it, and asks again and again. See whether it runs, and whether name, port,"
        return warning("redis", f"{place}: {error}", f"{mend} password and certificate are right.")
    found = f"{place}: {', '.join(sorted({_program(each) for each in servers}))}"
    flows = settings.max_flows * settings.plan.workers
    need = flows * FLOW_BYTES // len(servers)
    tight = [each for each in servers if need > _room(each, need)]
    if not tight:
        return ok("redis", found)
    refuses = any(each.get("maxmemory_policy") == "noeviction" for each in tight)
    found += f"; {shown(min(_room(each, need) for each in tight))} left, {shown(need)} for {flows} flows"
    mend = "When it is full, new flows are refused; have it forget the oldest instead, or give it more:"
    mend = mend if refuses else "When it is full it forgets flows, which are written again and again; give it more:"
    policy = "\n  redis-cli CONFIG SET maxmemory-policy volatile-ttl" if refuses else ""
    most = max(int(each.get("maxmemory", 0)) for each in tight) + need
    return warning("redis", found, f"{mend}{policy}\n  redis-cli CONFIG SET maxmemory {most >> 20}mb")


def _program(server: dict[str, str]) -> str:
    name = server.get("server_name", "redis")
    return f"{name} {server.get(f'{name}_version', server.get('redis_version', 'of no version'))}"


def _room(server: dict[str, str], unbounded: int) -> int:
    most, used = int(server.get("maxmemory", 0)), int(server.get("used_memory", 0))
    return max(0, most - used) if most else unbounded
