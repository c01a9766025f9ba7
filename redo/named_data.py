"""Data sets by name, in their own layout, as the original takes them: a split is made of them first."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.makers import cub, flowers, folder, lfw, two_digits
from common.splits import STEPS, read_split, write_split
from redo.options import DataOptions

MAKERS: dict[str, Callable[[str, str, str], int]] = {
    "flowers": lambda root, out, base: flowers.make(flowers.Options(input=root, out=out, base_dir=base)),
    "cub": lambda root, out, base: cub.make(cub.Options(input=root, out=out, base_dir=base)),
    "lfw": lambda root, out, base: lfw.make(lfw.Options(input=root, out=out, base_dir=base)),
    "cmnist": lambda root, out, base: two_digits.make(two_digits.Options(input=root, out=out, base_dir=base)),
    "folder": lambda root, out, base: folder.make(folder.Options(input=root, out=out, base_dir=root)),
}


def with_split(data: DataOptions) -> DataOptions:
    """The options with a split: the one that is named, or one made of ``--dataset`` and ``--dataroot``.

    Raises:
        InputError: No such data set, or files that belong to it are missing.
    """
    if data.data_file is not None:
        return data
    names = data.dataset.split("+")
    for name in names:
        if name not in MAKERS:
            raise InputError(f"--dataset {data.dataset}: {name!r} is not known; choose from {', '.join(MAKERS)}")
    roots = data.dataroot.split("+") if len(names) > 1 else [data.dataroot]
    if len(roots) != len(names):
        raise InputError(f"--dataroot {data.dataroot}: {len(roots)} folders for {len(names)} data sets; join them by +")
    for root in roots:
        if not Path(root).is_dir():
            raise InputError(
                f"--dataroot {root}: no such folder; name that of --dataset {data.dataset}, or --data_file"
            )
    prefixes = [_make(name, root, data.cache_dir) for name, root in zip(names, roots, strict=True)]
    if len(names) == 1:
        prefix, base = prefixes[0]
        return replace(data, data_file=prefix, base_dir=base)
    return replace(data, data_file=pool(names, prefixes, data), base_dir=data.cache_dir)


def _make(name: str, root: str, cache: Path) -> tuple[Path, Path]:
    """Prefix and base folder of the split of one data set, written below the cache."""
    key = hashlib.blake2b(str(Path(root).resolve()).encode(), digest_size=5).hexdigest()
    out = cache / "splits" / f"{name}-{key}" / name
    base = Path(root) if name == "folder" else cache
    MAKERS[name](root, str(out), str(base))
    return out, base


def pool(names: list[str], prefixes: list[tuple[Path, Path]], data: DataOptions) -> Path:
    """One split of several; the column ``Part`` says which one a row is from.

    Raises:
        InputError: A part is a plain folder, whose paths are relative to another place.
    """
    out = data.cache_dir / "splits" / "+".join(names) / "+".join(names)
    for step in STEPS:
        rows: list[Mapping[str, Any]] = []
        for name, (prefix, base) in zip(names, prefixes, strict=True):
            if base != data.cache_dir:
                raise InputError(f"--dataset {data.dataset}: folder cannot be part of a mix; pool two splits instead")
            if Path(f"{prefix}_{step}.csv").exists():
                frame = read_split(f"{prefix}_{step}.csv", base_dir=base).frame
                rows += [{**{str(k): v for k, v in row.items()}, "Part": name} for row in frame.to_dict("records")]
        if rows:
            write_split(f"{out}_{step}.csv", rows)
    return out
