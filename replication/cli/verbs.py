"""What the verbs of `python -m replication` are for, in the order in which help lists them.

A table and nothing else: who lists verbs need not load what they do.
"""

from __future__ import annotations

UP = "run an agent until SIGTERM"
ASKING = {
    "get": "show a document, or the names of all",
    "set": "write a register",
    "add": "add an element to a set",
    "remove": "remove an element from a set",
    "inc": "increment a counter",
    "watch": "print changes of documents until interrupted",
    "explain": "who wrote a document, when, and what lost",
    "status": "one agent's view of the cluster",
    "members": "who is in the cluster, and how far behind",
    "stats": "the size of an agent's state and what it counted",
    "cut": "cut an agent off from another one, both ways, until `heal`",
    "heal": "end a `cut`",
    "retire": "declare a member gone for good",
    "skip": "give up the event before which an origin stands in quarantine, everywhere",
    "diff": "compare the states of two agents",
}
DOCTOR = "does it add up?"
OF_FILES = {
    "backup": "copy a journal, without identity",
    "restore": "put a backup in place",
}
