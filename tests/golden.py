"""Golden fixtures: where they are, which cases a method has, how a number is compared, how formula weights are made.

The fixtures are what the published reference implementations compute. They live outside this repository, in the
folder named by the environment variable ``UNSEG_SHARED`` (default: ``shared`` beside the checkout).
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("UNSEG_SHARED", ROOT.parent / "shared"))


@dataclass(frozen=True)
class Case:
    """One golden case: the manifest's entry, with lazily read arrays."""

    method: str
    entry: Mapping[str, Any]
    families: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.entry["name"]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.entry.get("config", self.entry.get("params", {}))

    @property
    def folder(self) -> Path:
        return SHARED / "golden" / self.method

    @property
    def family(self) -> str:
        """The longest known prefix of the case's name; an unknown family is an error, never a skip."""
        fitting = [f for f in self.families if self.name.startswith(f)]
        if not fitting:
            raise LookupError(f"case {self.name} of {self.method} belongs to no known family {self.families}")
        return max(fitting, key=len)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the case by key."""
        with np.load(self.folder / self.entry["file"]) as npz:
            return {key: npz[key] for key in npz.files}

    @property
    def bounds(self) -> Mapping[str, Any]:
        """What holds rtol, atol and per_key: the entry itself or its ``tolerance``."""
        return self.entry.get("tolerance", self.entry)

    def rule(self, key: str) -> Any:
        """The entry of per_key for one output; one whose name ends with * stands for all that begin so."""
        rules = self.bounds.get("per_key", {})
        groups = (rules[name] for name in rules if name.endswith("*") and key.startswith(name[:-1]))
        return rules.get(key, next(groups, None))

    def tolerance(self, key: str) -> tuple[float, float]:
        """(rtol, atol) of one output key; per-key entries override the case's."""
        named = {**self.entry.get("tolerance_by_key", {}), **self.entry.get("tolerances", {})}.get(key)
        if named is not None:
            return float(named["rtol"]), float(named["atol"])
        override = self.rule(key)
        if override is None:
            return float(self.bounds.get("rtol", 0.0)), float(self.bounds.get("atol", 0.0))
        if isinstance(override, Mapping):
            raise TypeError(f"{self.name}.{key} has the rule {override}, not a pair: compare it with check()")
        return float(override[0]), float(override[1])

    def check(self, key: str, value: Any, expected: np.ndarray | None = None) -> None:
        """Assert that ``value`` equals the stored output ``key`` within the manifest's tolerance."""
        expected = self.arrays()[key] if expected is None else expected
        value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        assert value.shape == expected.shape, f"{self.name}.{key}: shape {value.shape}, expected {expected.shape}"
        if "outlier_fraction" in self.entry.get("tolerance", {}):
            self._check_scaled(key, value, expected)
            return
        rule = self.rule(key)
        if isinstance(rule, Mapping):
            self._check_rule(key, value, expected, rule)
            return
        if expected.dtype.kind in "iubUS" and key not in self.entry.get("tolerances", {}):
            np.testing.assert_array_equal(value, expected, err_msg=f"{self.name}.{key}")
            return
        rtol, atol = self.tolerance(key)
        if expected.dtype.kind in "iu":  # a difference of unsigned integers would wrap around
            value, expected = value.astype(np.int64), expected.astype(np.int64)
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=atol, err_msg=f"{self.name}.{key}")

    def _check_scaled(self, key: str, value: np.ndarray, expected: np.ndarray) -> None:
        """The rule with a scaled bound: rtol * |expected| + atol * max|expected|, except for a fraction of outliers.

        NaN must stand where NaN is expected; bound and fraction are over the finite elements.
        """
        rule = self.entry.get("tolerances", {}).get(key, self.entry["tolerance"])
        value, expected = value.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(value), np.isnan(expected), err_msg=f"{self.name}.{key}: NaN")
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(value[~finite], expected[~finite], err_msg=f"{self.name}.{key}")
        value, expected = value[finite], expected[finite]
        if not expected.size:
            return
        bound = rule["rtol"] * np.abs(expected) + rule["atol"] * np.abs(expected).max()
        excess = np.abs(value - expected) - bound
        outside = float(np.mean(~(excess <= 0)))
        assert outside <= rule.get("outlier_fraction", 0), (
            f"{self.name}.{key}: {outside:.2%} of the values are out of bounds, allowed "
            f"{rule.get('outlier_fraction', 0):.2%}; the worst lies {excess.max():.3g} outside"
        )

    def _check_rule(self, key: str, value: np.ndarray, expected: np.ndarray, rule: Mapping[str, Any]) -> None:
        name = f"{self.name}.{key}"
        kind, bound = next(iter(rule.items()))
        fraction = float(np.mean(value != expected))
        if kind in ("max_fraction_different", "min_agreement"):
            allowed = bound if kind == "max_fraction_different" else 1 - bound
            assert fraction <= allowed, f"{name}: {fraction:.2%} of the values differ, allowed {allowed:.2%}"
        elif kind == "at_least_minus":
            element = rule["element"]
            assert value[element] >= expected[element] - bound, f"{name}: {value[element]} < {expected[element]}"
        elif kind == "legacy_ties_only":  # the caller passes what the legacy ties give
            np.testing.assert_array_equal(value, expected, err_msg=name)
        else:
            assert kind == "informative", f"{name}: unknown tolerance rule {rule}"


def load_cases(method: str, manifest: str = "manifest.json", families: Iterable[str] | None = None) -> list[Case]:
    """Every case of a method's manifest, or an empty list when the fixtures are not at hand."""
    path = SHARED / "golden" / method / manifest
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    known = tuple(families if families is not None else content.get("families") or content["about"]["families"])
    entries = content.get("cases", list(content.values()))  # a list of entries, or a mapping from names to them
    return [Case(method, entry, known) for entry in entries]


def parametrize(
    method: str, manifest: str = "manifest.json", families: Iterable[str] | None = None
) -> pytest.MarkDecorator:
    """``@parametrize("stflow")``: one test id per golden case; one skipped id that says why when there are none."""
    cases = load_cases(method, manifest, families)
    if not cases:
        reason = f"golden fixtures not found at {SHARED / 'golden' / method} (set UNSEG_SHARED)"
        return pytest.mark.parametrize("case", [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")])
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def need_data(*parts: str) -> Path:
    """A path below the shared sample data, or a skip that says what is missing."""
    path = SHARED.joinpath("data", *parts)
    if not path.exists():
        pytest.skip(f"sample data not found at {path} (set UNSEG_SHARED)")
    return path


def formula_tensor(key: str, shape: Iterable[int], gain: float = 1.0, phase_key: str | None = None) -> torch.Tensor:
    """The formula weight of one state-dict key (the sine rule of ``golden/README.md``).

    Args:
        key: Key of the reference's state dict; its ending decides the rule.
        shape: Shape of the tensor.
        gain: Factor of tensors with two or more dimensions.
        phase_key: Key that sets the phase, when the manifest names another one than ``key``.
    """
    shape = tuple(shape)
    count = int(np.prod(shape)) if shape else 1
    phase = zlib.crc32((phase_key or key).encode()) % 1000
    wave = np.sin(0.37 * np.arange(count, dtype=np.float64) + phase)
    if key.endswith("running_var"):
        values = 1.0 + 0.1 * wave
    elif len(shape) >= 2:
        values = gain * wave * np.sqrt(2.0 / (count / shape[0]))
    elif key.endswith("weight") and len(shape) == 1:
        values = 1.0 + 0.1 * wave
    else:
        values = 0.1 * wave
        if key.endswith(("weight_u", "weight_v")):
            values = values / np.linalg.norm(values)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def chirp_tensor(key: str, shape: Iterable[int], gain: float = 1.0) -> torch.Tensor:
    """The weight of one state-dict key by the "chirp" rule: the sine rule with a frequency that rises.

    Its matrices have full rank, unlike those of :func:`formula_tensor`; the scaling by ending and shape is the same.
    """
    shape = tuple(shape)
    count = int(np.prod(shape)) if shape else 1
    index = np.arange(count, dtype=np.float64)
    wave = np.sin(0.37 * index + 0.0007 * index * index + zlib.crc32(key.encode()) % 1000)
    if key.endswith("running_var"):
        values = 1.0 + 0.1 * wave
    elif len(shape) >= 2:
        values = gain * wave * np.sqrt(2.0 / (count / shape[0]))
    elif key.endswith("weight"):
        values = 1.0 + 0.1 * wave
    else:
        values = 0.1 * wave
        if key.endswith(("weight_u", "weight_v")):
            values = values / np.linalg.norm(values)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))
