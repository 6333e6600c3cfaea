"""The command `sidbench`, and `python -m sidbench`: Ctrl-C ends cleanly while Python still loads, too."""

from __future__ import annotations

import sys
from typing import Any


def main() -> Any:
    """Load the command line, then run it."""
    try:
        from sidbench.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped.\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
