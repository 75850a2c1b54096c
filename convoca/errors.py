"""What can go wrong between the halves; what goes wrong in one of them is that half's error.

All of them are `ConvocaError`s, as those of the three packages are.
"""

from __future__ import annotations

from crdt import ConvocaError


class MemberError(ConvocaError):
    """Root of the tree of this package. Nothing was changed, unless a class says otherwise."""

    code = "member"
    hint = "see docs/convoca.md"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint
        self.add_note(f"hint: {self.hint}")  # so a traceback says it, too


class NoStoreError(MemberError):
    """An eager call of a member that was given no store; nothing was decided or written."""

    code = "no_store"
    hint = (
        "give it one: join(..., store='http://127.0.0.1:7700') for what `convoca serve FILE` "
        "shares, or store='sqlite:team.db' for this process alone"
    )


class NameTakenError(MemberError):
    """A living member of the team on this host has that name; this one does not run."""

    code = "name_taken"
    hint = "stop the other one, or join under another name"

    def __init__(self, name: str, team: str, *, pid: int, address: str) -> None:
        super().__init__(
            f"{name!r} is a member of team {team!r} on this host already: "
            f"process {pid}, at {address}"
        )
        self.name = name
        self.team = team
        self.pid = pid
        self.address = address


class WrongSecretError(MemberError):
    """Every member that answered holds another secret; what was started was closed again."""

    code = "wrong_secret"
    hint = "give every member of the team the same secret"

    def __init__(self, text: str, addresses: tuple[str, ...], *, hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.addresses = addresses


class RuntimeDirectoryError(MemberError):
    """The directory where members find each other cannot be used; nothing was read from it.

    It cannot be made or locked, or is not this user's alone: whoever can write there could lead a
    member to an address of his choice.
    """

    code = "runtime_directory"
    hint = (
        "set $CONVOCA_RUNTIME_DIR to a directory of your own (0700) that can be written, or say"
        " whom to ask: --peer, join(..., peers=[...]); peers=[] asks nobody"
    )


class PageError(MemberError):
    """The page cannot be served where it was asked for; nothing is served."""

    code = "page"
    hint = "ui=True serves it at 127.0.0.1, on a free port; from elsewhere: ssh -L"


class NoMemberError(MemberError):
    """A command was not told which member to ask, and there is none to choose, or several teams."""

    code = "no_member"
    out_of_reach = True
    hint = "--peer HOST:PORT or NAME, $CONVOCA_PEER; or start one: convoca up NAME"


class PartitionError(MemberError):
    """A team was not cut into these parts, or not wholly; then the message says who was not told.

    `convoca heal` ends what was done.
    """

    code = "partition"
    hint = "convoca partition ada,bob / cyd,dee"

    def __init__(self, text: str, *, partly: bool = False) -> None:
        super().__init__(text, hint="`convoca heal` ends what was done" if partly else "")
        if partly:
            self.state = "stands"


class NoCheckoutError(MemberError):
    """A demo was asked for where none is installed; nothing was run."""

    code = "no_checkout"
    hint = "demos are no part of what pip installs: clone the repository, and run it there"
