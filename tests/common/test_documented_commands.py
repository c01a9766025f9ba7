"""Every command that a page shows is one that its script accepts: script, options, values, recipe and make target."""

import importlib.util
import re
import subprocess
import sys

import pytest

from common import cli
from tests.pages import ROOT, arguments, commands

COMMANDS = list(commands())


def scripts() -> list[tuple[str, str]]:
    """The commands that run a script of the project."""
    return [(page, command) for page, command in COMMANDS if re.match(r"python (?!-c )", command)]


@pytest.mark.parametrize(("page", "command"), scripts(), ids=lambda value: value if " " in value else "")
def test_script_accepts_the_command(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(command)[1:]
    if words[0] == "-m":  # from inside transformer_seg/, as the original's README has it
        words = [f"transformer_seg/{words[1]}.py", *words[2:]]
    script = ROOT / words[0]
    assert script.is_file(), f"{page}: {words[0]} is not a script of the project"
    for word in words[1:]:
        assert "/configs/" not in word or (ROOT / word).is_file(), f"{page}: no recipe {word}"
    given = words[1 : words.index("--")] if "--" in words else words[1:]
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), *given])
    specification = importlib.util.spec_from_file_location(f"documented_{script.stem}", script)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, module)  # its dataclasses look themselves up
    specification.loader.exec_module(module)
    try:
        ended = module.main([*given, "--help" if given in ([], ["--help"]) else "--print_config"])
    except SystemExit as stop:
        ended = stop.code
    said = capsys.readouterr()
    assert ended in (None, cli.DONE), f"{page}: {command}\n{said.err}"


def test_make_knows_its_targets() -> None:
    wanted = [(page, arguments(command)) for page, command in COMMANDS if command.startswith("make ")]
    assert wanted
    for page, words in wanted:
        done = subprocess.run(
            ["make", "-n", "--assume-old=.venv/.ready", *words[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page}: {' '.join(words)}\n{done.stderr}"


def test_the_pages_show_commands_of_every_method() -> None:
    shown = {arguments(command)[1].split("/")[0] for _, command in scripts()}
    assert {"ast", "redo", "maskdistill", "transformer_seg", "stflow", "common"} <= shown
