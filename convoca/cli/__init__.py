"""What `convoca` does: members of a team, and the verbs of both halves under one roof.

    convoca up ann                                a member; run a second one in another terminal
    convoca set order/42 paid                     asks one of them; they share it
    convoca serve team.db                         a store for what must be decided once
    convoca room book turing 2026-03-01T09:00Z 2026-03-01T10:00Z --holder ann

Theory of operation. No verb is written here a second time. Those that ask a member are
`replication.cli`'s, those that ask a store `transactional.cli`'s; this command puts them into one
parser, and answers two questions for them. *Whom?* `--peer`, else `$CONVOCA_PEER`, else a member on
this host, found as members find each other; and `--store`, else `$CONVOCA_STORE`, else the address
that `convoca serve` listens on. *Who answered?* Said on stderr, or in the field `by` of JSON.

Secrets and tokens come from files or the environment, never from arguments, which are for all eyes.

    main        one parser, the exit status          verbs       a list of them all
    lazy        the verbs that ask a member          store       those that ask a store
    up          a member until it is stopped         partition   cut a team into parts, and heal it
    completion  for bash, zsh and fish               demo        from a checkout
    asked       whom a verb asks                     screen      what is printed, to whomever
"""

from convoca.cli.main import main

__all__ = ["main"]
