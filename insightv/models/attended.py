"""Run a command for as long as somebody attends to it: `python -m insightv.models.attended PATIENCE COMMAND ..`.

When standard input ends, which the system sees to even if the parent was killed, the command's whole process group is ended: SIGTERM, up to
PATIENCE seconds, SIGKILL. The exit code is the command's own.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

_POLL = 0.1


def main() -> int:
    """Start the command, wait until it or standard input ends, and leave nothing of its process group behind."""
    patience, command = float(sys.argv[1]), sys.argv[2:]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return 127
    while process.poll() is None and not select.select([sys.stdin], [], [], _POLL)[0]:
        pass
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    # Also where the command ended by itself: its workers may be left.
    _signal(process.pid, signal.SIGKILL)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    raise SystemExit(main())
