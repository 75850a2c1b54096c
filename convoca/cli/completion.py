r"""The verb `completion`: what a shell needs to complete this command's words.

    bash    eval "$(convoca completion bash)"                     in ~/.bashrc
    zsh     eval "$(convoca completion zsh)"                      in ~/.zshrc, after compinit
    fish    convoca completion fish | source                      in config.fish

Theory of operation. A shell asks the command itself, `convoca complete -- WORDS`, with the words up
to the one that is being typed, and gets what may stand there, a line each. What may stand there is
read from the parser that reads the arguments, so it cannot lag behind it; and names of members on
this host are offered where a member is asked for. Where nothing is offered the shell completes
files.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from convoca.cli.verbs import ROOMS

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPTS = {
    "bash": r"""
_convoca() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$(convoca complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" \
        -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -o bashdefault -F _convoca convoca
""",
    "zsh": r"""
_convoca() {
    local -a found
    found=("${(@f)$(convoca complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n "$found" ]] && compadd -a found || _files
}
compdef _convoca convoca
""",
    "fish": r"""
function __convoca_complete
    set -l words (commandline -opc) (commandline -ct)
    convoca complete -- $words[2..-1] 2>/dev/null
end
complete -c convoca -f -a '(__convoca_complete)'
""",
}

EXAMPLE = """examples:
  eval "$(convoca completion bash)"        in ~/.bashrc
  eval "$(convoca completion zsh)"         in ~/.zshrc, after compinit
  convoca completion fish | source         in config.fish"""


def add_verb(verb: str, verbs: Any, words: Sequence[str] | None) -> None:  # noqa: ARG001
    """Add the verb; the one that shells call is in no list."""
    text = ROOMS["completion"][verb]
    sub = verbs.add_parser(verb, help=text, description=text, epilog=EXAMPLE)
    sub.add_argument("shell", choices=sorted(SCRIPTS), help="whose script is printed")


def main(top: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Print the script of a shell, or what the shell's user may type next."""
    if words[0] == "complete":
        print(*candidates(top, words[2:]), sep="\n")
    else:
        print(SCRIPTS[top.parse_args(words).shell].strip())
    return 0


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What may stand where the last word is being typed; [] if that is up to the shell."""
    *before, typed = words or [""]
    if "--" in before:  # a program's own words
        return []
    place = 0
    at = 0
    while at < len(before):
        word = before[at]
        option = parser._option_string_actions.get(word)  # noqa: SLF001 - argparse has no other way
        if option is not None:
            if at == len(before) - 1 and _takes_value(option):
                return _fitting(_values(option), typed)
            at += 2 if _takes_value(option) else 1
            continue
        at += 1
        if word.startswith("-"):
            continue
        choices = _choices(parser)
        if choices is not None:
            if word not in choices.choices:
                return []
            parser, place = choices.choices[word], 0
        else:
            place += 1
    if typed.startswith("-"):
        known = [o for o in parser._option_string_actions if o.startswith("--")]  # noqa: SLF001
        return _fitting(known, typed)
    choices = _choices(parser)
    if choices is not None:
        shown = [each.dest for each in choices._choices_actions]  # noqa: SLF001 - those with a help
        return _fitting(shown, typed)
    positionals = [a for a in parser._actions if not a.option_strings]  # noqa: SLF001
    return _fitting(
        _values(positionals[min(place, len(positionals) - 1)]) if positionals else [], typed
    )


def _choices(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[Any] | None:
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return action
    return None


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _values(action: argparse.Action) -> list[str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.dest not in {"peer", "one", "other", "team"}:
        return []
    from convoca.discovery import everybody  # noqa: PLC0415 - for who asks for somebody

    return sorted({each.team if action.dest == "team" else each.name for each in everybody()})


def _fitting(found: Sequence[str], typed: str) -> list[str]:
    return [word for word in found if word.startswith(typed)]
