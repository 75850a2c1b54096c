"""`python -m demos NAME`: runs one demo; without a name it lists them.

Exit status: 0 all checks hold, 2 usage, anything else as the demo's own text says.
"""

from __future__ import annotations

import importlib
import sys

from rich.console import Console

DEMOS = {
    "gossip": "five replicas write while their network breaks and heals; 35 s (make demo-gossip)",
    "meetings": "five agents in five processes schedule a real conference; 50 s (make demo)",
    "orders": "sixty orders are completed or undone, whoever is killed; 25 s (make demo-orders)",
    "rooms": "twenty agents book one room in five ways, two of them naive; 25 s (make demo-rooms)",
    "teams": "a dozen workers share 500 jobs and are killed all the time; 20 s (make demo-teams)",
}


def main(arguments: list[str]) -> int:
    """Hand the arguments behind the name to the demo; one line per mistake, never a traceback."""
    console = Console(stderr=True, highlight=False)
    if not arguments or arguments[0] in {"-h", "--help"}:
        for name, purpose in DEMOS.items():
            print(f"python -m demos {name:10} {purpose}")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in DEMOS:
        console.print(f"error: no demo is called {name!r} (hint: one of {', '.join(DEMOS)})")
        return 2
    status: int = importlib.import_module(f"demos.{name}").main(rest)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
