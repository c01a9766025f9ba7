"""The original's configuration files as defaults of our options: the experiment (``--config_exp``) and ``env.yml``."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.cli import flatten
from common.errors import InputError

SPELLINGS = {
    "train_db_kwargs.distill_dir": "distill_dir",
    "scheduler_kwargs.lr_decay_epoch": "scheduler_kwargs.lr_decay_epochs",
    "num_class": "num_classes",
}


def original_defaults(argv: Sequence[str], option_classes: Sequence[type]) -> dict[str, Any]:
    """Defaults from the files that ``--config_exp`` and ``--config_env`` name among the arguments.

    Raises:
        InputError: A file that is missing or no YAML, or a key that is none of the options.
    """
    experiment, environment = _value(argv, "--config_exp"), _value(argv, "--config_env")
    defaults: dict[str, Any] = {}
    if experiment is not None:
        known = [flag.name for options in option_classes for flag in flatten(options)]
        for key, value in _dotted(_read(experiment)):
            key = SPELLINGS.get(key, key)
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
                raise InputError(f"{experiment}: unknown key {key}{f'; did you mean {near[0]}?' if near else ''}")
            defaults[key] = value
    if environment is not None:
        root = _read(environment).get("root_dir")
        if not isinstance(root, str):
            raise InputError(f"{environment}: no root_dir in it, the folder that runs go to")
        if experiment is not None:
            defaults["out"] = str(Path(root) / experiment.resolve().parent.name / experiment.stem)
    return defaults


def _value(argv: Sequence[str], flag: str) -> Path | None:
    """What follows a flag, after a space or an equals sign."""
    for place, token in enumerate(argv):
        name, equals, value = token.partition("=")
        if name == flag:
            following = value if equals else next(iter(argv[place + 1 :]), "")
            return Path(following) if following and following != "None" else None
    return None


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such configuration file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: not readable YAML ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: holds no keys")
    return content


def _dotted(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in content.items():
        nested = isinstance(value, Mapping)
        found += _dotted(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", value)]
    return found
