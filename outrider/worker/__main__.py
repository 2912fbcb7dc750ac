"""Entry of the worker: ``python -m outrider.worker --fd N --running-fd M``, started by an agent's keeper only."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from outrider.worker.functions import put_on_path
from outrider.worker.runner import Runner


def main(arguments: list[str]) -> None:
    """Serve on the two inherited descriptors until the keeper lets go."""
    values = dict(zip(arguments[::2], arguments[1::2], strict=False))
    try:
        descriptor, running_fd = int(values["--fd"]), int(values["--running-fd"])
    except (KeyError, ValueError):
        sys.exit("usage: python -m outrider.worker --fd N --running-fd M; start agents with `outrider agent run`")
    for inherited in (descriptor, running_fd):
        os.set_inheritable(inherited, False)
    put_on_path(str(Path.cwd()))
    Runner(socket.socket(fileno=descriptor), running_fd).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
