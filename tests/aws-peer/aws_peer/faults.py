"""What can be made to go wrong, by action and count."""

import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass
class Fault:
    """Hits calls of some actions: `count` of them, after the first `skip`.

    `kind` is one of
    - `error`: the call is answered with the error, and does nothing;
    - `unreached`: the connection dies, and the call does nothing;
    - `lost`: the call is carried out, and the connection dies;
    - `hold`: the call is carried out, and then answered only once the fault
      is released, so that a caller can be killed in between;
    - `hold_before`: the same, but it is carried out after the release;
    - `stall`: the call does nothing, and the connection dies at the release.
    """

    name: str
    kind: str
    # Patterns of the shell, as `Create*`.
    actions: list[str]
    skip: int = 0
    # None: all of them.
    count: int | None = 1
    # Parameters that a call must have to be hit, by their names on the wire.
    parameters: dict[str, str] = field(default_factory=dict)
    code: str = "InternalFailure"
    message: str = "made to fail by the test"
    status: int = 400
    # Calls that it has hit.
    seen: int = 0
    released: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in ("error", "unreached", "lost", "hold", "hold_before", "stall"):
            raise ValueError(f"there is no fault of the kind {self.kind!r}")

    def hits(self, action: str, parameters: dict[str, str]) -> bool:
        """Whether it hits this call. To be asked once a call."""
        if self.released.is_set() or not any(fnmatchcase(action, pattern) for pattern in self.actions):
            return False
        if any(parameters.get(name) != value for name, value in self.parameters.items()):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.count is not None and self.seen >= self.count:
            return False
        self.seen += 1
        return True
