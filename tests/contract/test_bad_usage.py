"""Every command, told what it does not know or given a recipe that is none: exit code 2 and one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("common", "ast", "redo", "maskdistill", "transformer_seg", "stflow")
SCRIPTS = [
    str(file.relative_to(ROOT))
    for folder in FOLDERS
    for file in sorted((ROOT / folder).rglob("*.py"))
    if '__name__ == "__main__"' in file.read_text()
]
LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]  # 9 ** 12 elements, if written out
)
RECIPES = {
    "bytes.yaml": bytes(range(128, 256)),
    "list.yaml": b"- 1\n- 2\n",
    "open.yaml": b"{a: [1, 2\n",
    "tag.yaml": b"out: !!python/object/apply:os.system ['touch pwned']\n",
    "laughs.yaml": LAUGHS.encode(),
    "empty_key.yaml": b"? \n: 1\n",
    "nul.yaml": b"out: a\x00b\n",
}
WORKER = """
import contextlib, io, json, os, resource, runpy, signal, sys, traceback
from pathlib import Path

in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 3 * 2**30,) * 2)
signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("more than 20 s")))
for script, arguments in json.loads(Path(sys.argv[1]).read_text()):
    said, code = io.StringIO(), "none"
    argv, sys.argv = sys.argv, [script, *arguments]
    path, sys.path = sys.path, [str(Path(script).parent), *sys.path]
    signal.alarm(20)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        code = traceback.format_exc()
    signal.alarm(0)
    sys.argv, sys.path = argv, path
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


def arguments(folder: Path) -> dict[str, list[str]]:
    """What is given, by a name for the case."""
    given = {
        "unknown flag": ["--no_such_flag", "1"],
        "no recipe": ["--config", str(folder / "nowhere.yaml")],
        "folder as recipe": ["--config", str(folder)],
    }
    return given | {name: ["--config", str(folder / name)] for name in RECIPES}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, str], list[object]], Path]:
    folder = tmp_path_factory.mktemp("usage")
    for name, content in RECIPES.items():
        (folder / name).write_bytes(content)
    cases = [(script, case) for script in SCRIPTS for case in arguments(folder)]
    wanted = [[str(ROOT / script), arguments(folder)[case]] for script, case in cases]
    (folder / "list.json").write_text(json.dumps(wanted))
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(folder / "list.json")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(cases), f"died at {cases[len(lines)]}: {done.stderr[-600:]}"
    return dict(zip(cases, lines, strict=True)), folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_usage_is_one_line(script: str, answers: tuple[dict[tuple[str, str], list[object]], Path]) -> None:
    found = {case: answer for (name, case), answer in answers[0].items() if name == script}
    assert len(found) == 3 + len(RECIPES)
    assert {case: answer for case, answer in found.items() if answer[0] != 2} == {}
    for case, (_, said) in found.items():
        lines = str(said).strip().splitlines()
        assert len(lines) == 1, (case, lines)
        assert lines[0].startswith("error: "), (case, lines)
        assert len(lines[0]) < 1000 + len(str(answers[1])), (case, len(lines[0]))


def test_nothing_was_run(answers: tuple[dict[tuple[str, str], list[object]], Path]) -> None:
    assert {path.name for path in answers[1].iterdir()} == {*RECIPES, "list.json"}
