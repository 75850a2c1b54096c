"""What `python -m transactional` does: one module of verbs per topic, one list of them in `main`.

A command is a name, its arguments and a coroutine (`command.py`).  `serve` shares a file, `store`
looks into a store, `files` copies and checks a file, `recipes` shows logs and sagas, `rooms` books.
Nothing here decides anything: each verb is a call or two of the library, printed.
"""

from transactional.cli.main import main

__all__ = ["main"]
