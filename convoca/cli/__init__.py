"""What `convoca` does on a command line: members, and the verbs of both halves under one roof."""

from convoca.cli.main import main

__all__ = ["main"]
