"""What the verbs of `python -m replication` are for, in the order in which help lists them.

A table and nothing else: who lists verbs need not load what they do.
"""

from __future__ import annotations

UP = "run an agent until SIGTERM or Ctrl-C"
ASKING = {
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
    "heal": "end a `cut`",
    "retire": "declare a member gone for good",
    "skip": "give up the event before which an origin stands in quarantine, everywhere",
    "diff": "compare the states of two members",
}
DOCTOR = "look for what is wrong with a member and all that it knows, or with a journal"
OF_FILES = {
    "backup": "copy a journal; the copy has no identity of its own",
    "restore": "put a backup in the place of a journal",
}
EXAMPLES = {
    "get": "order/42",
    "set": "order/42 paid",
    "add": "order/42/tags gift",
    "remove": "order/42/tags gift",
    "inc": "stock/widget -5",
    "watch": "order/",
    "explain": "order/42",
    "status": "",
    "members": "",
    "stats": "",
    "cut": "bob",
    "heal": "bob",
    "retire": "bob",
    "skip": "bob~1",
    "diff": "127.0.0.1:7001 127.0.0.1:7002",
    "doctor": "",
    "backup": "ann.db ann.backup",
    "restore": "ann.backup ann.db",
}
"""Verb -> words that make sense behind it; whom it asks is for the command to say."""
