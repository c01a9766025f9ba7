"""Every command, told what it does not know or given a recipe that is none: exit code 2 and one line."""

from pathlib import Path

import pytest

from tests.processes import in_one_process

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


def arguments(folder: Path) -> dict[str, list[str]]:
    """What is given, by a name for the case."""
    given = {
        "unknown flag": ["--no_such_flag", "1"],
        "no recipe": ["--config", str(folder / "nowhere.yaml")],
        "folder as recipe": ["--config", str(folder)],
    }
    return given | {name: ["--config", str(folder / name)] for name in RECIPES}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, str], tuple[object, str]], Path]:
    folder = tmp_path_factory.mktemp("usage")
    for name, content in RECIPES.items():
        (folder / name).write_bytes(content)
    cases = [(script, case) for script in SCRIPTS for case in arguments(folder)]
    wanted = [[str(ROOT / script), *arguments(folder)[case]] for script, case in cases]
    answers = in_one_process(wanted, folder, seconds=20, more_memory=3 * 2**30)
    return dict(zip(cases, answers, strict=True)), folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_usage_is_one_line(script: str, answers: tuple[dict[tuple[str, str], tuple[object, str]], Path]) -> None:
    found = {case: answer for (name, case), answer in answers[0].items() if name == script}
    assert len(found) == 3 + len(RECIPES)
    assert {case: answer for case, answer in found.items() if answer[0] != 2} == {}
    for case, (_, said) in found.items():
        lines = str(said).strip().splitlines()
        assert len(lines) == 1, (case, lines)
        assert lines[0].startswith("error: "), (case, lines)
        assert len(lines[0]) < 1000 + len(str(answers[1])), (case, len(lines[0]))


def test_nothing_was_run(answers: tuple[dict[tuple[str, str], tuple[object, str]], Path]) -> None:
    assert {path.name for path in answers[1].iterdir()} == set(RECIPES)
