"""What `python -m replication` does: run an agent, or look into a running one and give it orders.

    python -m replication up ada --listen 127.0.0.1:7001 --journal ada.db
    python -m replication members --peer 127.0.0.1:7001
    python -m replication set order/42/status paid --peer 127.0.0.1:7001

Theory of operation. `up` is an agent until SIGTERM. Every other verb asks the agent that `--peer`
names and is answered by it alone (`AdminClient`): a `set` is that agent's own write, durable on its
disk when the command returns, and on `--copies N` others if asked for. So verbs cost no identity,
work across a partition exactly as far as their agent does, and may be used in loops. `backup`,
`restore` and `doctor JOURNAL` work on files of agents that do not run.

Exit statuses follow from what an error says of the state: 0 ok, 1 refused, 2 usage, 3 nobody could
be asked, 4 it may have happened, 5 it stands and what was waited for did not come in time, 130
interrupted. Errors are one line on stderr, an object of JSON if answers are.

What is handed on is for a command that has these verbs among others: it adds them to its parser,
says whom they ask, and runs them. A name is looked up when it is first asked for, so that a list of
verbs costs no socket, and a question to an agent no journal.

    verbs         what each is for
    command_line  reads arguments and shows answers
    commands      what the verbs say to a running agent
    running       the agent that `up` is             logs    the lines that it writes
    copies        journals of agents that do not run
    doctor        looks for what does not add up
    screen        text of others on a terminal
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replication.cli.command_line import (
        add_doctor,
        add_verb,
        add_verbs_of_files,
        complain,
        main,
        output_options,
        run,
        running_options,
        shared_options,
        shown,
    )
    from replication.cli.commands import client_of, secret_of, tls_of
    from replication.cli.verbs import ASKING, DOCTOR, EXAMPLES

ROOMS = {
    "ASKING": "verbs",
    "DOCTOR": "verbs",
    "EXAMPLES": "verbs",
    "add_doctor": "command_line",
    "add_verb": "command_line",
    "add_verbs_of_files": "command_line",
    "client_of": "commands",
    "complain": "command_line",
    "main": "command_line",
    "output_options": "command_line",
    "run": "command_line",
    "running_options": "command_line",
    "secret_of": "commands",
    "shared_options": "command_line",
    "shown": "command_line",
    "tls_of": "commands",
}

__all__ = [
    "ASKING",
    "DOCTOR",
    "EXAMPLES",
    "add_doctor",
    "add_verb",
    "add_verbs_of_files",
    "client_of",
    "complain",
    "main",
    "output_options",
    "run",
    "running_options",
    "secret_of",
    "shared_options",
    "shown",
    "tls_of",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
    return found
