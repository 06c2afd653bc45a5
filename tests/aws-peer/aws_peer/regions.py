"""What the stand-in keeps for a region, beside what moto keeps.

Every test has a region of its own, so that tests don't see one another, and
one process serves them all.
"""

import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend, Zone

from aws_peer.buckets import Buckets
from aws_peer.faults import Fault
from aws_peer.feed import Feed
from aws_peer.quotas import PAGE, QUOTAS


@dataclass
class Call:
    """A line of the request log."""

    number: int
    # Since the start of the stand-in.
    seconds: float
    # The access key that it was signed with: tells the controller from others.
    who: str
    action: str
    # As they came: flat, by their names on the wire.
    parameters: dict[str, str]
    # "ok", or the error's code, or what the fault did to it.
    outcome: str = ""


# What a test can change of a region.
SETTINGS = (
    "latency", "throttled", "clock", "provisioning_seconds", "initial_seconds", "in_use_seconds", "quotas", "page",
    "required_tag",
)  # fmt: skip


@dataclass
class Region:
    """One region of the one account."""

    name: str
    log: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    # Settings, for the test to change.
    # Seconds that an action takes, by its name; "*" is every other.
    latency: dict[str, float] = field(default_factory=dict)
    # Whether calls of the one who is tried take from the buckets of AWS.
    throttled: bool = False
    # How much faster than ours this region's clock goes.
    clock: float = 1.0
    # What a new load balancer, and a new target, takes to be ready.
    provisioning_seconds: float = 0.0
    initial_seconds: float = 0.0
    # How long a target group is still in use after its listener has gone.
    in_use_seconds: float = 0.0
    # Quotas that are other than AWS' defaults.
    quotas: dict[str, int] = field(default_factory=dict)
    # The most that an answer holds, for who asks for no less.
    page: int = PAGE
    # A tag, as [key, value], that everything which the one who is tried writes
    # to must have, and everything that it makes.
    required_tag: list[str] | None = None
    buckets: Buckets = field(default_factory=Buckets)
    feed: Feed = field(default_factory=Feed)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> float:
        """Seconds on the region's clock."""
        return (time.monotonic() - STARTED) * self.clock

    def quota(self, name: str) -> int:
        return self.quotas.get(name, QUOTAS[name])

    def has_room_for(self, action: str) -> bool:
        """Whether this call is not throttled. To be asked once a call."""
        with self.lock:
            return not self.throttled or self.buckets.take(action, self.now())

    def record(self, who: str, action: str, parameters: dict[str, str]) -> Call:
        with self.lock:
            call = Call(len(self.log) + 1, time.monotonic() - STARTED, who, action, parameters)
            self.log.append(call)
            return call

    def calls(self, who: str | None) -> list[dict[str, Any]]:
        with self.lock:
            return [asdict(call) for call in self.log if who in (None, call.who)]

    def forget_calls(self) -> None:
        with self.lock:
            self.log.clear()

    def fault_for(self, action: str, parameters: dict[str, str]) -> Fault | None:
        """The fault that hits this call, which is counted by it."""
        with self.lock:
            return next((fault for fault in self.faults if fault.hits(action, parameters)), None)

    def delay(self, action: str) -> float:
        return self.latency.get(action, self.latency.get("*", 0.0))


STARTED = time.monotonic()
_regions: dict[str, Region] = {}
_lock = threading.Lock()


def region(name: str) -> Region:
    """What is kept for the region, which is there from its first mention."""
    with _lock:
        if name not in _regions:
            # moto has no zones for a region that AWS does not have.
            RegionsAndZonesBackend.zones.setdefault(
                name, [Zone(name + letter, name, f"{name}-az{n}") for n, letter in enumerate("abcdef", 1)]
            )
            _regions[name] = Region(name)
        return _regions[name]
