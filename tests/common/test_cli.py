"""The command line: flag styles of the originals, YAML, one-line errors, exit codes, speed of --help."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common import cli
from common.errors import InputError, Interrupted, RunFailed


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Network shape."""

    num_layers: int = 3
    train_bn: bool = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to do."""

    data_file: Path = field(metadata={"positional": True})
    img_size: list[int] = field(default_factory=lambda: [128, 224])
    inputs: list[str] | None = field(default_factory=lambda: ["Flow"])
    unet: Inner = field(default_factory=Inner)
    cut: int | None = None
    weights: dict[str, float] = field(default_factory=lambda: {"a": 1.0})


def parse(*argv: str, aliases: dict[str, str] | None = None) -> Options:
    return cli.parse([Options], argv, aliases)[0]


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--img_size", "64", "96"], "img_size", [64, 96]),
        (["--img_size=[64, 96]"], "img_size", [64, 96]),
        (["--img_size", "[64, 96]"], "img_size", [64, 96]),
        (["--inputs", "Flow-1", "Flow", "Flow+1"], "inputs", ["Flow-1", "Flow", "Flow+1"]),
        (["--inputs", "none"], "inputs", None),
        (["--unet.train_bn"], "unet", Inner(train_bn=True)),
        (["--unet.train_bn", "false"], "unet", Inner()),
        (["--unet.num_layers=4"], "unet", Inner(num_layers=4)),
        (["--cut", "None"], "cut", None),
        (["--cut", "-1"], "cut", -1),
        (["-c", "7"], "cut", 7),
        (["--weights", '{"b": 2}'], "weights", {"b": 2.0}),
    ],
)
def test_flag_styles(argv: list[str], name: str, value: object) -> None:
    assert getattr(parse("x", *argv, aliases={"-c": "--cut"}), name) == value


def test_bare_argument_fills_the_positional_option() -> None:
    assert parse("split.csv").data_file == Path("split.csv")
    assert parse("--cut", "3", "split.csv").data_file == Path("split.csv")


def test_yaml_and_flags_mix_and_flags_win(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data_file: a.csv\nunet:\n  num_layers: 5\ncut: 4\n")
    expected = Options(data_file=Path("a.csv"), unet=Inner(num_layers=5), cut=9)
    assert parse("--config", str(recipe), "--cut", "9") == expected
    assert parse("--cut", "9", "--config", str(recipe)) == expected, "a flag before the recipe too"
    assert parse("--cut", "9", f"--config={recipe}") == expected
    recipe.with_name("more.yaml").write_text("cut: 5\nunet:\n  num_layers: 6\n")
    later = parse("--config", str(recipe), "--config", str(recipe.with_name("more.yaml")))
    assert (later.cut, later.unet.num_layers) == (5, 6), "of two recipes the later"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["x", "--imgsize", "3"], ["--imgsize", "did you mean --img_size?"]),
        (["x", "--unet.numlayers", "3"], ["did you mean --unet.num_layers?"]),
        (["x", "--unet.num_layers", "2.5"], ["unet.num_layers", "2.5"]),
        (["x", "--img_size", "a", "b"], ["img_size", "a"]),
        (["x", "--cut"], ["--cut needs a value"]),
        ([], ["data_file"]),
        (["--config", "no-such.yaml"], ["no-such.yaml"]),
    ],
)
def test_mistakes_are_one_line(argv: list[str], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse(*argv)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_unknown_yaml_key_names_the_nearest(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data_file: a.csv\nunet:\n  num_layrs: 5\n")
    with pytest.raises(InputError, match=r"did you mean --unet\.num_layers\?"):
        parse("--config", str(recipe))


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (InputError("a.csv: bad"), 2, "error: a.csv: bad"),
        (
            PermissionError(13, "Permission denied", "a"),
            2,
            "error: a: Permission denied; change its mode, or name another",
        ),
        (RunFailed("loss is nan"), 1, "failed: loss is nan"),
        (Interrupted("saved"), 130, "interrupted: saved"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(error: BaseException, code: int, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise error

    assert cli.guarded(fail) == code
    assert capsys.readouterr().err == word + "\n"


def test_defects_keep_their_traceback() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.guarded(fail)


def test_print_config_can_be_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("x", "--cut", "3", "--print_config")
    assert stopped.value.code == 0
    recipe = tmp_path / "again.yaml"
    recipe.write_text(capsys.readouterr().out)
    assert parse("--config", str(recipe)) == parse("x", "--cut", "3")


def test_subcommands_dispatch_and_suggest(capsys: pytest.CaptureFixture[str]) -> None:
    def folder(options: Options) -> int:
        """Make a split of a folder."""
        assert options.data_file == Path("in")
        return 0

    commands = {"folder": (folder, Options)}
    assert cli.subcommands(commands, ["folder", "in"], prog="make_split.py") == 0
    assert cli.subcommands(commands, ["foldr", "in"], prog="make_split.py") == 2
    assert "did you mean folder?" in capsys.readouterr().err
    assert cli.subcommands(commands, ["--help"], prog="make_split.py") == 0
    assert "Make a split of a folder." in capsys.readouterr().out


def commands() -> list[Path]:
    """Every command of the repository: the Python files with a main guard."""
    root = Path(__file__).resolve().parents[2]
    folders = ("common", "ast", "redo", "maskdistill", "transformer_seg", "stflow")
    files = [file for folder in folders for file in sorted((root / folder).rglob("*.py"))]
    return [file for file in files if '__name__ == "__main__"' in file.read_text()]


@pytest.mark.parametrize("script", commands(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help_is_quick_and_imports_no_torch(script: Path, tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    assert time.perf_counter() - start < 10  # 2 s on an idle machine; torch alone would take more on a busy one
