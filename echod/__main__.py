"""The ``echod`` command, and ``python -m echod``."""

import os
import signal
import sys


def main() -> int:
    """Run the command line; return the exit status.

    All signals are blocked first, until the command installs its handlers or unblocks them. The
    imports of the daemon take a quarter of a second. A signal in that time would kill the process
    at any point, or be lost if the process is PID 1.
    """
    if hasattr(signal, "pthread_sigmask"):  # missing on Windows, which cli.main refuses
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    refused = 3 if sys.argv[1:2] == ["probe"] else 1  # status 1 of the probe is a verdict
    try:
        from echod.cli import main as run  # noqa: PLC0415  # signals are blocked first
    except (OSError, MemoryError, ImportError, SystemError) as error:  # no memory, for example
        os.write(2, f"echod: error: cannot load echod: {str(error) or 'out of memory'}\n".encode())
        return refused
    return run(refused)


if __name__ == "__main__":
    sys.exit(main())
