"""Recipes (``--config`` files) looked at before the parser reads them: it would fail on some, and hang on others."""

from pathlib import Path

import yaml

from common.errors import InputError

MOST_VALUES = 100_000
"""Values of a recipe with its aliases written out; a few lines of nested aliases can stand for more than fit memory."""


def check_recipe(path: Path) -> None:
    """Refuse a recipe that is no YAML dictionary of options.

    Raises:
        InputError: names the file and what is wrong with it.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"--config {path}: is not a file; name a YAML recipe")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror}); name a YAML recipe") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--config {path}: not UTF-8 text (byte {error.start}); name a YAML recipe") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else ""
        raise InputError(f"--config {path}: not YAML{place}; name a recipe with lines 'option: value'") from error
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise InputError(f"--config {path}: holds no options; a recipe has lines 'option: value'")
    if node is not None and _values(node, {}) > MOST_VALUES:
        raise InputError(f"--config {path}: its aliases stand for more than {MOST_VALUES:,} values; write it plainly")


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """Values below a node, aliases written out; infinite where a node holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_values(child, known) for child in children)
    return known[id(node)]
