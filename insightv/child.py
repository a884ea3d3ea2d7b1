"""One stage as a process of its own: `python -m insightv.child CONFIG CORRECTED STAGE`; progress as JSON lines on stdout."""

import errno
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from insightv.config import UserError
from insightv.config_file import load_config
from insightv.files import ADVICE
from insightv.loop import plan
from insightv.models.chat import EndpointDown
from insightv.plan import make
from insightv.store import Run


def main() -> None:
    """Make the stage; exit code 2 is a user's mistake and 3 an endpoint that went away, each with one line on stderr."""
    settings, corrected, name = load_config(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING)
    last = 0.0

    def report(values: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2 or values.get("step") == values.get("of"):
            last = time.monotonic()
            print(json.dumps(values), flush=True)

    try:
        make(plan(settings, corrected), Run(settings.run, settings.journal), name, report, "--retry-failed" in sys.argv)
    except (UserError, EndpointDown) as error:
        print(error, file=sys.stderr)
        raise SystemExit(3 if isinstance(error, EndpointDown) else 2) from None
    except Exception as error:
        # Libraries that write weights report a full disk in errors of their own.
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        print(f"cannot write in {settings.run}: {ADVICE[errno.ENOSPC]}", file=sys.stderr)
        raise SystemExit(2) from None


def _end_with_parent() -> None:
    """A stage must not outlive a run that was killed: its successor would work in the same folder."""
    # The system closes the pipe even when the parent is killed. Not through sys.stdin, whose lock would be held while the process ends.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
