"""What stands in front of moto: faults, the request log, and the test's control."""

import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.wrappers import Request, Response

import aws_peer.backend  # noqa: F401 - puts itself in the place of what moto has
from aws_peer import control
from aws_peer.faults import Fault
from aws_peer.policy import denied
from aws_peer.regions import Call, Region, region

# Calls signed with other access keys meet neither faults nor latency.
CONTROLLER = "CONTROLLER"

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Handler(MotoRequestHandler):
    """Keeps connections open, as AWS does, and logs nothing: we do."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: Any) -> None:
        pass


class Front:
    """The WSGI application."""

    def __init__(self) -> None:
        # Where it is reached; known once it listens.
        self.url = ""
        self.moto = DomainDispatcherApplication(create_backend_app)
        # moto is not made for several calls at a time.
        self.lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # Read once, and put back for moto.
        body = Request(environ).get_data()
        environ["wsgi.input"] = io.BytesIO(body)
        request = Request(environ)
        if request.path.startswith("/_peer/"):
            answer = control.answer(self.url, request.path.removeprefix("/_peer/"), body)
            return answer(environ, start_response)
        signed = re.search(r"Credential=([^/]+)/[^/]+/([^/]+)/([^/]+)/", request.headers.get("Authorization", ""))
        if signed is None:
            return error("MissingAuthenticationToken", "the request is not signed", 403)(environ, start_response)
        who, region_name, service = signed.groups()
        parameters = dict(parse_qsl(body.decode(), keep_blank_values=True))
        here = region(region_name)
        if service != "elasticloadbalancing":
            return self._carry_out(environ, nullcontext())(environ, start_response)
        answer = self._call(environ, here, who, parameters)
        if answer is None:
            hang_up(environ)
        return answer(environ, start_response)

    def _call(self, environ: Environ, here: Region, who: str, parameters: dict[str, str]) -> Response | None:
        """The answer to a call, or None if the connection is to die."""
        action = parameters.pop("Action", "")
        parameters.pop("Version", None)
        call = here.record(who, action, parameters)
        fault = None
        if who == CONTROLLER:
            time.sleep(here.delay(action))
            if not here.has_room_for(action):
                call.outcome = "ThrottlingException"
                return error(call.outcome, "Rate exceeded", 400)
            reason = denied(here, action, parameters)
            if reason is not None:
                call.outcome = "AccessDenied"
                return error(call.outcome, reason, 403)
            fault = here.fault_for(action, parameters)
        answer, call.outcome = self._meet(environ, here, call, fault)
        return answer

    def _meet(self, environ: Environ, here: Region, call: Call, fault: Fault | None) -> tuple[Response | None, str]:
        """The answer, and what the log says of it."""
        if fault is not None and fault.kind == "error":
            return error(fault.code, fault.message, fault.status), fault.code
        if fault is not None and fault.kind == "unreached":
            return None, "unreached"
        if fault is not None and fault.kind in ("hold_before", "stall"):
            fault.released.wait()
        if fault is not None and fault.kind == "stall":
            return None, "stalled"
        answer = self._carry_out(environ, here.feed.call(here.name, call.who, call.action, call.parameters))
        if fault is not None and fault.kind == "lost":
            return None, "lost"
        if fault is not None and fault.kind == "hold":
            fault.released.wait()
        return answer, outcome(answer)

    def _carry_out(self, environ: Environ, within: AbstractContextManager[None]) -> Response:
        with self.lock, within:
            return Response.from_app(self.moto, environ, buffered=True)


def outcome(answer: Response) -> str:
    """What the log says of an answer."""
    if answer.status_code < 300:
        return "ok"
    code = re.search(r"<Code>([^<]*)</Code>", answer.get_data(as_text=True))
    return code.group(1) if code else str(answer.status_code)


def error(code: str, message: str, status: int) -> Response:
    """An error, as the Query API of AWS answers it."""
    return Response(
        "<ErrorResponse><Error><Type>Sender</Type>"
        f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
        "</Error><RequestId>made-up</RequestId></ErrorResponse>",
        status=status,
        mimetype="text/xml",
    )


def hang_up(environ: Environ) -> None:
    """Ends the connection without an answer."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionError("hung up, as the test wants it")
