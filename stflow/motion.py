"""Parametric motion models: what flow a segment of coherent motion may have.

The flow of a segment is linear in its parameters, f_theta(x) = B(x) theta (Meunier and Bouthemy, CVPR 2023), and each
column of B is a product of a factor of time and a monomial of the two image coordinates. So a model never needs B
itself: theta gives, frame by frame, the coefficients of one small polynomial per component (`MotionModel.design`), and
polynomials are evaluated, and their weighted moments taken, axis by axis. The grid `basis` (2,T,I,J,ft) is for those
who want to see it.

Coordinates are normalised, ``linspace(-1, 1, n)`` on each axis: t over frames, i over rows, j over columns. Component 0
of a flow is u (horizontal, along j), component 1 is v.
"""

# ruff: noqa: E741 - T I J are this field's letters for frames, rows and columns

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from common.errors import InputError

Column = tuple[int, int, int] | None  # index of the time factor, power of i, power of j; None is a column of zeros


def monomials_of_time(t: Tensor) -> Tensor:
    """Time factors 1 and t: (T,) to (T, 2)."""
    return torch.stack([torch.ones_like(t), t], dim=-1)


def axis(size: int) -> Tensor:
    """``size`` coordinates from -1 to 1 in float64."""
    return torch.linspace(-1, 1, size, dtype=torch.float64)


@lru_cache(maxsize=64)
def powers(size: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Powers 0..count-1 of one axis' coordinates, (size, count)."""
    with torch.inference_mode(False):  # a cached inference tensor could not enter a later graph
        return (axis(size)[:, None] ** torch.arange(count)).to(device=device, dtype=dtype)


@dataclass(frozen=True)
class MotionModel:
    """One family of parametric flows.

    Args:
        name: Name in `MOTION_MODELS`.
        columns: Columns of component u, then of component v; both have ``num_parameters`` entries.
        time_factors: Maps normalised time (T,) to the factors (T, n) that columns refer to. Monomials by default; a
            spline basis fits here as well.
        legacy_grid: With a single frame, put it at t = -1 as the published code does; else at t = 0. Time-dependent
            models are rank deficient there either way: the fitted flow is the same, theta is not.
    """

    name: str
    columns: tuple[tuple[Column, ...], tuple[Column, ...]]
    time_factors: Callable[[Tensor], Tensor] = monomials_of_time
    legacy_grid: bool = False

    @property
    def num_parameters(self) -> int:
        """Length ft of theta."""
        return len(self.columns[0])

    @property
    def degree(self) -> int:
        """Highest power of a single image coordinate."""
        return max(max(column[1:]) for component in self.columns for column in component if column)

    @property
    def decoupled(self) -> bool:
        """Whether u and v have parameters of their own over one shared basis (theta is then u's half, v's half)."""
        u, v = self.columns
        half = len(u) // 2
        zeros = (None,) * half
        return len(u) == 2 * half and u[half:] == zeros and v[:half] == zeros and u[:half] == v[half:]

    def times(self, T: int) -> Tensor:
        """Normalised time of T frames, (T,) float64."""
        return axis(T) if T > 1 or self.legacy_grid else torch.zeros(1, dtype=torch.float64)

    def design(self, T: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Map from theta to the polynomial of each component and frame.

        Returns:
            D (2, T, P, P, ft) with P = degree + 1: component c of the flow in frame t is
            sum_ab (D theta)[c,t,a,b] i^a j^b.
        """
        return _design(self, T, dtype, torch.device(device))

    def basis(self, T: int, I: int, J: int, device: torch.device | str = "cpu") -> Tensor:
        """The grid B (2, T, I, J, ft), float32, of which `flow` is the product with theta."""
        return _basis(self, T, I, J, torch.device(device))

    def shared_basis(self, T: int, I: int, J: int, device: torch.device | str = "cpu") -> Tensor:
        """The columns that u and v of a decoupled model have in common, (T, I, J, ft/2)."""
        if not self.decoupled:
            raise ValueError(f"{self.name} has no basis shared by u and v")
        return self.basis(T, I, J, device)[0, ..., : self.num_parameters // 2]

    def flow(self, theta: Tensor, T: int, I: int, J: int, frames: slice = slice(None)) -> Tensor:
        """Flow of each theta: (..., ft) to (..., 2, T, I, J), differentiable, never below float32.

        Args:
            theta: Parameters.
            T: Frames of the window, which set the time axis.
            I: Rows.
            J: Columns.
            frames: Which of the T frames to evaluate.
        """
        with torch.autocast(theta.device.type, enabled=False):
            theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
            D = self.design(T, theta.dtype, theta.device)[:, frames]
            P = D.shape[2]
            polynomials = (theta @ D.flatten(0, 3).mT).reshape(*theta.shape[:-1], *D.shape[:4])
            rows = powers(I, P, theta.dtype, theta.device)
            columns = powers(J, P, theta.dtype, theta.device)
            flow: Tensor = rows @ (polynomials @ columns.mT)
            return flow


@lru_cache(maxsize=64)
def _design(model: MotionModel, T: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    P = model.degree + 1
    with torch.inference_mode(False):
        factors = model.time_factors(model.times(T))
        D = torch.zeros(2, T, P, P, model.num_parameters, dtype=torch.float64)
        for c, component in enumerate(model.columns):
            for k, column in enumerate(component):
                if column is not None:
                    time, a, b = column
                    D[c, :, a, b, k] = factors[:, time]
        return D.to(device=device, dtype=dtype)


@lru_cache(maxsize=4)  # 16.5 MB for a window of 3 x 128 x 224 and 24 columns
def _basis(model: MotionModel, T: int, I: int, J: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return model.flow(torch.eye(model.num_parameters), T, I, J).movedim(0, -1).contiguous().to(device)


def _columns(text: str) -> tuple[Column, ...]:
    """Read columns such as "tij 1 0": a product of coordinates, one, a column of zeros."""
    return tuple(
        None if token == "0" else (token.count("t"), token.count("i"), token.count("j")) for token in text.split()
    )


def _shared(name: str, text: str) -> MotionModel:
    columns = _columns(text)
    zeros: tuple[Column, ...] = (None,) * len(columns)
    return MotionModel(name, (columns + zeros, zeros + columns))


MOTION_MODELS = {
    model.name: model
    for model in (
        _shared("Affine", "i j 1"),
        _shared("AffinePT", "t it jt i j 1"),
        MotionModel("QuadraticPlanar", (_columns("ij jj 0 0 0 i j 1"), _columns("ii ij i j 1 0 0 0"))),
        MotionModel(
            "QuadraticPlanarPT",
            (_columns("ij ijt jj jjt 0 0 0 i it j jt 1 t"), _columns("ii iit ij ijt i it j jt 1 t 0 0 0")),
        ),
        MotionModel(
            "QuadraticPlanarPT16",
            (
                _columns("ij ijt jj jjt 0 0 0 0 0 0 i it j jt 1 t"),
                _columns("ii iit ij ijt i it j jt 1 t 0 0 0 0 0 0"),
            ),
        ),
        _shared("QuadraticFull", "ij ii jj i j 1"),
        _shared("QuadraticFullPT", "t tij tii tjj ti tj ij ii jj i j 1"),
    )
}


def motion_model(name: str, legacy_grid: bool = False) -> MotionModel:
    """The model of a name.

    Args:
        name: A key of `MOTION_MODELS`. "PT" models are linear in time. QuadraticPlanarPT is kept with the 13
            columns of the published code, three of which couple unrelated terms of u and v; QuadraticPlanarPT16 is the
            model that is meant.
        legacy_grid: See `MotionModel`.

    Raises:
        InputError: Unknown name.
    """
    if name not in MOTION_MODELS:
        raise InputError(f"--param_model: unknown motion model {name!r}, choose one of {', '.join(MOTION_MODELS)}")
    if name == "QuadraticPlanarPT":
        warnings.warn(
            "QuadraticPlanarPT has three columns that couple unrelated terms; use QuadraticPlanarPT16", stacklevel=2
        )
    model = MOTION_MODELS[name]
    return MotionModel(model.name, model.columns, model.time_factors, legacy_grid)


def as_motion_model(model: MotionModel | str) -> MotionModel:
    """The model itself, or the one of that name."""
    return motion_model(model) if isinstance(model, str) else model


def basis(name: str, T: int, I: int, J: int, legacy_grid: bool = False) -> Tensor:
    """Grid (2, T, I, J, ft) of a named model; the order of its columns is part of the published format."""
    return motion_model(name, legacy_grid).basis(T, I, J)


def parametric_flow(theta: Tensor, model: MotionModel | str, T: int, I: int, J: int) -> Tensor:
    """Flow of every segment: theta (B, L, ft) to (B, L, 2, T, I, J), in the units of the fitted flow."""
    return as_motion_model(model).flow(theta, T, I, J)


def reconstruct(pred: Tensor, param_flow: Tensor) -> Tensor:
    """Flow explained by all segments together, for pictures: sum_l p_l f_l.

    Args:
        pred: Probabilities (B, L, T, I, J).
        param_flow: Flow of each segment (B, L, 2, T, I, J).

    Returns:
        (B, 2, T, I, J).
    """
    return torch.einsum("bltij,blctij->bctij", pred, param_flow)
