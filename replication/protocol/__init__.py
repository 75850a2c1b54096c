"""The sans-IO half of replication: messages, wire, membership and the replica machine.

Nothing in here sleeps, rolls dice, opens a socket or logs: time and dice are arguments, bytes come
in and `Effects` go out. That is what makes a seed a bug report (see `replication.testing`).
"""
