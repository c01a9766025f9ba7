"""The walls of the house: who may import whom, names that must not hide others, versions kept equal."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("ast", "redo", "maskdistill", "transformer_seg", "stflow")
PACKAGES = {
    "ast": "ast_seg",
    "redo": "redo",
    "maskdistill": "maskdistill",
    "transformer_seg": "transformer_seg",
    "stflow": "stflow",
}


def imports(file: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_ast_folder_is_not_a_package() -> None:
    assert not (ROOT / "ast" / "__init__.py").exists()
    assert (ROOT / "ast" / "ast_seg").is_dir()


def test_common_imports_no_method() -> None:
    for file in (ROOT / "common").rglob("*.py"):
        assert not imports(file) & set(PACKAGES.values()), file


@pytest.mark.parametrize("method", METHODS)
def test_methods_do_not_import_each_other(method: str) -> None:
    others = {package for name, package in PACKAGES.items() if name != method}
    for file in (ROOT / method).rglob("*.py"):
        assert not imports(file) & others, file


@pytest.mark.parametrize("method", METHODS)
def test_networks_and_losses_import_no_lightning(method: str) -> None:
    for name in ("model.py", "losses.py"):
        for file in [*(ROOT / method).rglob(name), *(ROOT / method).rglob("model/*.py")]:
            assert not imports(file) & {"pytorch_lightning", "lightning"}, file


def test_no_file_hides_a_standard_or_installed_module() -> None:
    taken = set(sys.stdlib_module_names)
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        taken.add(re.split(r"[=<>]", line)[0].lower().replace("-", "_"))
    taken |= {"cv2", "PIL", "yaml", "sklearn", "datasets", "evaluate", "wandb_workspaces"}
    taken -= {"evaluate"}  # common/evaluate.py is the house's name; the package of that name is not a dependency
    for folder in ("common", *METHODS):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "__init__.py" and "ast_seg" not in file.parts:
                assert file.stem not in taken, f"{file} hides the module {file.stem} from scripts beside it"


def test_no_global_switches() -> None:
    for folder in ("common", *METHODS):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            assert "sys.path" not in text, file
            assert not re.search(r"weights_only\s*=\s*False", text), file


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^\s*-?\s*([A-Za-z0-9_.-]+)==([\w.+]+)\s*$", text, flags=re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_environment_and_constraints_pin_the_same_versions() -> None:
    constraints = pins((ROOT / "constraints.txt").read_text())
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    conda = pins("\n".join(f"- {line}" for line in listed))
    assert conda
    for name, version in conda.items():
        assert constraints.get(name) == version, name


def test_every_dependency_is_pinned_in_both_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[<>=\[; ]", line)[0].lower().replace("_", "-") for line in needed}
    constraints = pins((ROOT / "constraints.txt").read_text())
    environment = (ROOT / "environment.yml").read_text().lower().replace("_", "-")
    for name in names:
        assert name in constraints, f"{name} has no pin in constraints.txt"
        assert f"{name}==" in environment, f"{name} has no pin in environment.yml"


def test_make_help_lists_every_target_with_a_line() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert phony
    for target in " ".join(phony).split():
        assert re.search(rf"^{target}:.*## \S", text, flags=re.MULTILINE), target
