"""From a dataclass of options to a command.

One path from option to code: the fields of a dataclass (name, type, default, docstring below) become flags and YAML
keys of the same name through jsonargparse; nested dataclasses give dotted names (``--unet.num_layers``). Around it
stand the habits every command of this project shares:

- ``--config recipe.yaml`` and ``--print_config``; unknown keys stop the run and name the nearest one;
- the flag styles of the original repositories: ``--img_size 128 224``, bare switches, ``None``, short aliases;
- a user's mistake is one line on standard error and exit code 2; an interrupt is exit code 130;
- nothing heavy is imported: ``--help`` must not wait for torch.

References: jsonargparse; exit codes as in DESIGN ("0 done, 1 failed, 2 bad usage or bad input, 130 interrupted").
"""

import contextlib
import dataclasses
import difflib
import json
import re
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from common.errors import InputError, Interrupted, RunFailed
from common.recipes import check_recipe

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
TYPE_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}

Aliases = Mapping[str, str]


class _Parser(jsonargparse.ArgumentParser):
    """A parser whose complaints are one-line ``InputError``s naming the nearest known option."""

    def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise InputError(_readable(_one_line(message)) + _nearest(message, _flags(self)))


def command(
    function: Callable[..., int | None],
    *option_classes: type,
    argv: Sequence[str] | None = None,
    aliases: Aliases | None = None,
    prog: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> int:
    """Parse ``argv`` into one instance of each option class, call ``function`` with them and return the exit code.

    Args:
        function: Called with one instance per option class; its docstring is the help's description. It returns an
            exit code, or None for success.
        *option_classes: Dataclasses; their fields share one flat name space. A field with
            ``metadata={"positional": True}`` also takes a bare argument.
        argv: Arguments without the program's name; those of the process when None.
        aliases: Other spellings of flags, e.g. ``{"-L": "--nAffineMasks"}``.
        prog: Name shown in the help.
        defaults: Defaults that differ from the dataclasses' own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def parse_and_call() -> int | None:
        options = parse(option_classes, arguments, aliases, prog, function.__doc__, defaults)
        return function(*options)

    return guarded(parse_and_call)


def subcommands(
    commands: Mapping[str, tuple[Callable[..., Any], type]],
    argv: Sequence[str] | None = None,
    prog: str = "",
    description: str = "",
) -> int:
    """Dispatch ``prog NAME ...`` to one of several commands, each with its own option class.

    Args:
        commands: Name -> (function, option class).
        argv: Arguments without the program's name; those of the process when None.
        prog: Name shown in the help.
        description: First paragraph of the help.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {prog} {{{','.join(commands)}}} ...\n\n{description.strip()}\n\ncommands:")
        for name, (function, _) in commands.items():
            print(f"  {name:<14}{(function.__doc__ or '').strip().splitlines()[0]}")
        print(f"\n{prog} COMMAND --help shows the options of one command.")
        return DONE if arguments else BAD_INPUT
    if arguments[0] not in commands:
        message = f"unknown command {arguments[0]!r}, known: {', '.join(commands)}"
        return guarded(lambda: _raise(InputError(message + _nearest(arguments[0], list(commands)))))
    function, options = commands[arguments[0]]
    return command(function, options, argv=arguments[1:], prog=f"{prog} {arguments[0]}")


def parse(
    option_classes: Sequence[type],
    argv: Sequence[str],
    aliases: Aliases | None = None,
    prog: str | None = None,
    description: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """One instance per option class from command-line arguments; see ``command``.

    Raises:
        InputError: unknown option or key, missing required option, value of a wrong type.
    """
    aliases = dict(aliases or {})
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(prog=prog, description=_describe(description, aliases), allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file whose keys are the options below.")
    for options in option_classes:
        parser.add_class_arguments(options, None)
    if defaults:
        parser.set_defaults(dict(defaults))
    arguments = normalise(argv, [f for options in option_classes for f in flatten(options)], aliases)
    for recipe in _recipes(arguments):
        check_recipe(Path(recipe))
    settings = parser.instantiate(parser.parse_args(arguments))
    return tuple(
        options(**{f.name: settings[f.name] for f in dataclasses.fields(options)}) for options in option_classes
    )


def guarded(call: Callable[[], int | None]) -> int:
    """Run ``call`` and turn its end into an exit code; defects keep their traceback.

    SIGTERM ends a command as Ctrl-C does, so that no temporary file stays behind.
    """
    try:
        with _sigterm_interrupts():
            return call() or DONE
    except InputError as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except PermissionError as error:  # never a defect, wherever a path is looked at
        print(f"error: {error.filename}: {error.strerror}; change its mode, or name another", file=sys.stderr)
        return BAD_INPUT
    except RunFailed as error:
        print(f"failed: {_one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, Interrupted) as error:
        print(f"interrupted{': ' + str(error) if str(error) else ''}", file=sys.stderr)
        return INTERRUPTED


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclasses.dataclass(frozen=True)
class Flag:
    """One option as the command line sees it: dotted name, type, and whether a bare argument may fill it."""

    name: str
    type: Any
    positional: bool = False


def flatten(options: type, prefix: str = "") -> list[Flag]:
    """The flags of a dataclass, nested ones with dotted names."""
    hints = typing.get_type_hints(options)
    flags: list[Flag] = []
    for item in dataclasses.fields(options):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            flags += flatten(typing.cast(type, hint), f"{prefix}{item.name}.")
        else:
            flags.append(Flag(prefix + item.name, hint, bool(item.metadata.get("positional"))))
    return flags


def normalise(argv: Sequence[str], flags: Sequence[Flag], aliases: Aliases) -> list[str]:
    """Rewrite argparse habits into the form that jsonargparse reads.

    ``-L 2`` (alias), ``--img_size 128 224`` (list without brackets), ``--val_augment`` (bare switch), ``--cuts_size
    None`` and bare positional arguments all become ``--name=value``. Recipes come first, so that a flag counts more
    than a recipe wherever it stands.
    """
    known = {f"--{flag.name}": flag for flag in flags}
    positional = [flag for flag in flags if flag.positional]
    recipes: list[str] = []
    result: list[str] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        name, equals, value = token.partition("=")
        name = aliases.get(name, name)
        flag = known.get(name)
        if flag is None and not _is_flag(token) and positional:
            flag = positional.pop(0)
            name, values = f"--{flag.name}", [token]
            if _accepts(flag.type, list):
                values += _take_values(rest)
        elif flag is None:
            unknown = recipes if name == "--config" else result
            unknown.append(name + equals + value)
            if name in ("--config", "--print_config") and rest and not equals and not _is_flag(rest[0]):
                unknown.append(rest.pop(0))
            continue
        elif equals:
            values = [value]
        elif _accepts(flag.type, list):
            values = _take_values(rest)
        elif flag.type is bool:
            values = [rest.pop(0)] if rest and rest[0].lower() in ("true", "false") else ["true"]
        else:
            values = [rest.pop(0)] if rest and not _is_flag(rest[0]) else []
        result.append(_assign(name, flag, values))
    return recipes + result


def _recipes(arguments: Sequence[str]) -> list[str]:
    """The files that ``--config`` names; they stand first."""
    found = []
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config" and (equals or place + 1 < len(arguments)):
            found.append(value if equals else arguments[place + 1])
    return found


def _take_values(rest: list[str]) -> list[str]:
    values = []
    while rest and not _is_flag(rest[0]):
        values.append(rest.pop(0))
    return values


def _assign(name: str, flag: Flag, values: list[str]) -> str:
    if _accepts(flag.type, list) and not (len(values) == 1 and values[0].startswith("[")):
        if len(values) == 1 and values[0].lower() == "none" and _accepts(flag.type, types.NoneType):
            return f"{name}=null"
        return f"{name}={json.dumps([_scalar(v, flag.type) for v in values])}"
    if not values:
        raise InputError(f"{name} needs a value")
    if values[0].lower() == "none" and _accepts(flag.type, types.NoneType):
        return f"{name}=null"
    return f"{name}={values[0]}"


def _scalar(text: str, hint: Any) -> Any:
    """A list element as JSON: a number where the list's type says so, else the text itself."""
    if "int" in str(hint) or "float" in str(hint):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


def _accepts(hint: Any, kind: type) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_accepts(part, kind) for part in typing.get_args(hint))
    return (typing.get_origin(hint) or hint) is kind


def _is_flag(token: str) -> bool:
    return token.startswith("--") or re.fullmatch(r"-[A-Za-z][\w-]*(=.*)?", token) is not None


def _flags(parser: jsonargparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]


def _nearest(message: str, known: Sequence[str]) -> str:
    """``; did you mean X?`` for the first unknown word of a message, or nothing."""
    match = re.search(r"(?:unrecognized arguments: |not accept option |Option )'?(--)?([\w.+-]+)", message)
    word = match.group(2) if match else message
    candidates = {name.removeprefix("--"): name for name in known}
    found = difflib.get_close_matches(word.split("=")[0], candidates, n=1, cutoff=0.6)
    return f"; did you mean {candidates[found[0]]}?" if found and found[0] != word else ""


def _describe(doc: str | None, aliases: Aliases) -> str:
    prose = re.split(r"\n\s*(?:Args|Returns|Raises):", doc or "")[0]
    text = re.sub(r"\s+", " ", prose.strip())
    other = ", ".join(f"{short} = {full}" for short, full in aliases.items())
    return text + (f" Other spellings: {other}." if other else "")


def _one_line(message: str) -> str:
    """The message on one line; of an error that a loader process sent, with its traceback, only the message."""
    if message.startswith("Caught "):
        message = re.split(r"\n[\w.]*(?:InputError|RunFailed): ", message)[-1]
    return re.sub(r"\s*\n\s*", " ", message.strip())


def _readable(message: str) -> str:
    """The parser's complaint in words of the command line: flag, values that are allowed, value seen."""
    message = re.sub(r'^Parser key "([\w.]+)": ', r"--\1: ", message)
    message = re.sub(
        r"Does not validate against any of the Union subtypes .*? Errors: - (.*) Given value type: .*? Given value: ",
        lambda found: found[1].replace(" - Expected a <class 'NoneType'>", " or None") + ". Got value: ",
        message,
    )
    message = re.sub(
        r"Expected a typing\.Literal\[([^]]*)\]", lambda found: "choose from " + found[1].replace("'", ""), message
    )
    message = message.replace("Expected a <class 'dict'>", 'expected JSON such as {"NAME": 1.0}')
    message = re.sub(
        r"Expected a <class '(\w+)'>", lambda found: f"expected {TYPE_WORDS.get(found[1], found[1])}", message
    )
    return message.replace(". Got value: ", ", got ")


def _raise(error: Exception) -> typing.NoReturn:
    raise error
