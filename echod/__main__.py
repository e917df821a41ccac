"""The ``echod`` command, and ``python -m echod``."""

import os
import signal
import sys


def main() -> int:
    """Runs the command line and gives the exit status.

    Holds all signals back first. Until the command has handlers for them (or releases them) one
    would end the process where it is, and one to PID 1 would be lost, while the imports of the
    daemon take a quarter of a second.
    """
    if hasattr(signal, "pthread_sigmask"):  # Windows, which gets its answer in a moment
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    refused = 3 if sys.argv[1:2] == ["probe"] else 1  # for the probe 1 is a verdict
    try:
        from echod.cli import main as run  # noqa: PLC0415  # only now: see above
    except (OSError, MemoryError, ImportError, SystemError) as error:  # for want of memory, say
        os.write(2, f"echod: error: cannot load echod: {str(error) or 'out of memory'}\n".encode())
        return refused
    return run(refused)


if __name__ == "__main__":
    sys.exit(main())
