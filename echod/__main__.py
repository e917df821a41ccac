"""The ``echod`` command, and ``python -m echod``."""

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
    from echod.cli import main as run  # noqa: PLC0415  # only now: see above

    return run()


if __name__ == "__main__":
    sys.exit(main())
