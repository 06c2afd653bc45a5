"""Starts the stand-in for AWS on a free port of the loopback device, and writes
its URL to the file that it is given."""

import os
import sys
from pathlib import Path

# The tests have regions of their own, which AWS does not have.
os.environ["MOTO_ALLOW_NONEXISTENT_REGION"] = "true"

from werkzeug.serving import make_server

from aws_peer.front import Front, Handler


def main(url_file: Path) -> None:
    front = Front()
    server = make_server("127.0.0.1", 0, front, threaded=True, request_handler=Handler)
    front.url = f"http://127.0.0.1:{server.server_port}"
    # Moved to its place, so that who waits for it never reads half of it.
    unfinished = url_file.with_suffix(".unfinished")
    unfinished.write_text(front.url)
    unfinished.rename(url_file)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
