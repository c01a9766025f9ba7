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


def modules(folder: str) -> dict[str, Path]:
    """The modules below a folder by their import names."""
    root = ROOT / folder
    top = ROOT / "ast" if folder == "ast" else ROOT
    return {".".join(file.relative_to(top).with_suffix("").parts): file for file in root.rglob("*.py")}


def imported_at_once(file: Path, known: dict[str, Path]) -> set[str]:
    """The modules among these that a file imports when it is imported itself, not later inside a function."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(file.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{name.name}" for name in node.names} & known.keys()
            found |= names or ({node.module} & known.keys())
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names} & known.keys()
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


@pytest.mark.parametrize("folder", ["common", *METHODS])
def test_no_circle_of_imports(folder: str) -> None:
    known = modules(folder)
    open_: dict[str, set[str]] = {name: imported_at_once(file, known) - {name} for name, file in known.items()}
    while ready := [name for name, needed in open_.items() if not needed]:
        for name in ready:
            del open_[name]
        for needed in open_.values():
            needed -= set(ready)
    assert not open_, f"these import each other: {sorted(open_)}"


def option_fields(file: Path) -> dict[str, list[str]]:
    """The fields of the option classes of a file, by class; those of one value are for old scripts."""
    return {
        node.name: [
            item.target.id  # type: ignore[union-attr]
            for item in node.body
            if isinstance(item, ast.AnnAssign) and not re.fullmatch(r"Literal\['\w+'\]", ast.unparse(item.annotation))
        ]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Options", "Kwargs"))
    }


def names_read(file: Path) -> set[str]:
    """Names that a file reads off some object, or spells out in text."""
    tree = ast.parse(file.read_text())
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return read | {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("folder", ["common", *METHODS])
def test_every_option_is_read(folder: str) -> None:
    readers = ("common", *METHODS) if folder == "common" else ("common", folder)
    files = [file for name in readers for file in (ROOT / name).rglob("*.py")]
    read = set().union(*map(names_read, files))
    for file in (ROOT / folder).rglob("*.py"):
        for name, fields in option_fields(file).items():
            unread = sorted(set(fields) - read)
            assert not unread, f"{file}: nothing reads {unread} of {name}"


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
