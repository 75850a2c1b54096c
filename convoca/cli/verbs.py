"""Which verbs the command has, in which room each is, and what it is for.

A table and nothing else: who asks for help, or for one half, loads nothing of the other. What the
verbs of the halves are for is said as the halves say it (`tests/convoca/test_command.py`).
"""

from __future__ import annotations

ROOMS = {
    "up": {"up": "run a member of a team until SIGTERM or Ctrl-C"},
    "lazy": {
        "get": "show the value of a document, or the names of all",
        "set": "write a register: whoever writes last wins",
        "add": "add an element to a set",
        "remove": "remove an element from a set",
        "inc": "increment a counter, or decrement it by a negative number",
        "watch": "print values as they change, until interrupted",
        "explain": "who wrote a document, when, and what lost",
        "status": "all that a member says of itself and of its team",
        "members": "who is in the team, and how far behind",
        "stats": "the size of a member's state, and what it counted",
        "cut": "cut a member off from another one, both ways, until `heal`",
        "retire": "declare a member gone for good",
        "skip": "give up the event before which an origin stands in quarantine, everywhere",
        "diff": "compare the states of two members",
        "doctor": "look for what is wrong with a member and all that it knows, or with a journal",
        "journal": "copy a member's journal, or put a copy in its place",
    },
    "partition": {
        "partition": "cut a team into parts",
        "heal": "end every cut of a team, or one member's",
    },
    "store": {
        "serve": "share a database file over HTTP",
        "token": "draw a token for a client, and its hash",
        "room": "agendas, free time, bookings",
        "log": "read, append to and verify an event log",
        "saga": "look at sagas and speak to them",
        "lock": "run a program while holding a lock",
        "queue": "give work to exactly one worker each",
        "store": "look into a store by hand, copy and check its file",
    },
    "demo": {"demo": "run a demo, from a checkout"},
    "completion": {"completion": "print the script by which a shell completes these words"},
}
"""Room of this wing -> its verbs, as help lists them."""
HEADINGS = {
    "up": "members, and the values that they share:",
    "partition": "a network that breaks:",
    "store": "a store, and what is decided there once:",
    "demo": "besides:",
}
"""Room -> what help writes above it."""
ROOM_OF = {verb: room for room, verbs in ROOMS.items() for verb in verbs}


def listing() -> str:
    """All the verbs, as help shows them."""
    width = max(map(len, ROOM_OF))
    lines = []
    for room, verbs in ROOMS.items():
        if room in HEADINGS:
            lines += ["", HEADINGS[room]]
        lines += [f"  {verb:<{width}}  {text}" for verb, text in verbs.items()]
    return "\n".join(lines)
