"""``--dataset NAME``: the published settings of a data set as the defaults of a command.

They are the recipes ``configs/<stage>/<NAME>.yaml``; what stands on the command line or in a ``--config`` wins.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import cli
from common.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FLAG = "--dataset"


def with_preset(
    stage: str,
    function: Callable[..., int | None],
    *option_classes: type,
    argv: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    prog: str | None = None,
) -> int:
    """``common.cli.command`` with ``--dataset NAME``.

    Args:
        stage: Folder of the recipes: ``background`` or ``foreground``.
        function: See ``common.cli.command``.
        *option_classes: See there.
        argv: See there.
        aliases: See there.
        prog: See there.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def call() -> int:
        name = taken(arguments)
        defaults = recipe(stage, name) if name is not None else None
        return cli.command(function, *option_classes, argv=arguments, aliases=aliases, prog=prog, defaults=defaults)

    return cli.guarded(call)


def taken(arguments: list[str]) -> str | None:
    """The value of ``--dataset``, which is taken out of the arguments.

    Raises:
        InputError: The flag has no value.
    """
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != FLAG:
            continue
        if not equals and place + 1 < len(arguments):
            value = arguments.pop(place + 1)
        arguments.pop(place)
        if not value:
            break
        return value
    else:
        return None
    raise InputError(f"{FLAG}: name a data set, one of {', '.join(names('foreground'))}")


def names(stage: str) -> list[str]:
    """The data sets that have a recipe."""
    return sorted(file.stem for file in (CONFIGS / stage).glob("*.yaml"))


def recipe(stage: str, name: str) -> dict[str, Any]:
    """The settings of a data set.

    Raises:
        InputError: Unknown name.
    """
    import yaml

    file = CONFIGS / stage / f"{name}.yaml"
    if not file.is_file():
        raise InputError(f"{FLAG} {name}: unknown, choose one of {', '.join(names(stage))}")
    content = yaml.safe_load(file.read_text())
    assert isinstance(content, dict)
    return content


def chain_recipe(name: str) -> dict[str, Any]:
    """The settings of a data set for all steps at once, as the chain's dotted options.

    Raises:
        InputError: Unknown name.
    """
    import dataclasses

    from ast_seg.options import BackgroundOptions, ChainOptions, LossOptions, ModelOptions

    sections = {"background": BackgroundOptions, "model": ModelOptions, "loss": LossOptions}
    known = {section: {item.name for item in dataclasses.fields(kind)} for section, kind in sections.items()}
    own = {item.name for item in dataclasses.fields(ChainOptions)}
    found: dict[str, Any] = {}
    for stage, places in (("background", ("background",)), ("foreground", ("model", "loss"))):
        for key, value in recipe(stage, name).items():
            section = next((place for place in places if key in known[place]), None)
            if section is not None:
                found[f"{section}.{key}"] = value
            elif key in own:
                found[key] = value
    return found
