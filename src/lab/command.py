"""What every command of the package does with a wrong input."""

import sys


def exit_code(run):
    """Call `run` and return its exit code, 0 if it has none. A wrong input becomes one sentence and 2, an interruption 130."""
    try:
        return run() or 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
