"""Named protocols: how a benchmark's numbers are computed, so that a number can be stored under its name.

Sources: DAVIS-2016 and DAVIS-2017 as in ``common.metrics.davis``; DAVIS2017-motion is DAVIS-2017 unsupervised with the
annotations of Xie et al. (OCLR, 2022), in which objects that move together are one; FBMS-59 and SegTrackV2 as in
Meunier and Bouthemy (CVPR 2023): the mean over annotated frames of the IoU of one foreground.
"""

from dataclasses import dataclass
from typing import Literal

Benchmark = Literal["davis2016", "davis2017-motion", "fbms59", "segtrackv2"]


@dataclass(frozen=True)
class BenchmarkRule:
    """What a benchmark scores.

    Attributes:
        task: Task of ``common.evaluate``.
        ending: Scores whose names end so are its numbers, all others are left out.
        scored: What is averaged, in words.
        mask_encoding: How its annotations are read, where they have one form only.
    """

    task: Literal["foreground", "davis2017"]
    ending: str
    scored: str
    mask_encoding: Literal["palette_ids"] | None = None


BENCHMARKS: dict[Benchmark, BenchmarkRule] = {
    "davis2016": BenchmarkRule(
        "foreground", "_davis2016", "frames between the first and the last annotated one, then sequences"
    ),
    "davis2017-motion": BenchmarkRule(
        "davis2017", "_davis2017", "all frames, objects of the first annotated frame", "palette_ids"
    ),
    "fbms59": BenchmarkRule("foreground", "j_mean_frame", "annotated frames of all sequences together"),
    "segtrackv2": BenchmarkRule("foreground", "j_mean_frame", "annotated frames of all sequences together"),
}
