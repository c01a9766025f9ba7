"""The stored cases of J, F, their statistics, and the IoU of masks and boxes."""

import numpy as np
import pytest

from common.metrics.davis import davis2017_sequence, statistics
from common.metrics.jaccard import binary_jaccard, bounding_box_jaccard, box_mask
from common.metrics.pairs import boundary, pair_counts
from tests.golden import SHARED, Case, load_cases

FAMILIES = ("davis_jf", "iou_bbox")


def cases(family: str) -> list:
    found = [case for case in load_cases("stflow") if case.family == family]
    if not found:
        reason = f"no {family} fixtures at {SHARED / 'golden' / 'stflow'} (set UNSEG_SHARED)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")]
    return [pytest.param(case, id=case.name) for case in found]


@pytest.mark.parametrize("case", cases("iou_bbox"))
def test_iou_and_boxes(case: Case) -> None:
    stored = {key: array.astype(bool) for key, array in case.arrays().items() if key.startswith("in_")}
    case.check("out_iou", binary_jaccard(stored["in_pred"], stored["in_gt"]).astype(np.float32))
    boxes = np.stack([box_mask(mask) for mask in stored["in_bbox_pred"]])
    case.check("out_bbox_mask", boxes.astype(np.uint8))
    case.check("out_bbox_jacc", bounding_box_jaccard(stored["in_bbox_pred"], stored["in_gt"]).astype(np.float32))


@pytest.mark.parametrize("case", cases("davis_jf"))
def test_davis(case: Case) -> None:
    stored = case.arrays()
    tolerance = case.config["bound_th"]
    for suffix, void in (("_void", stored["in_void"].astype(bool)), ("", None)):
        num_objects = len(stored[f"out_J{suffix}"])
        scores = davis2017_sequence(
            stored["in_pred"], stored["in_gt"], void, num_objects=num_objects, tolerance=tolerance
        )
        order = np.argsort(scores.proposals)  # the fixture's rows come in the order of the proposals
        case.check(f"out_J{suffix}", scores.j[order])
        case.check(f"out_F{suffix}", scores.f[order])
    for letter, values in (("J", scores.j[order]), ("F", scores.f[order])):
        found = [statistics(row) for row in values]
        case.check(f"out_stats_{letter}", np.array([[s.mean, s.recall, s.decay] for s in found]))


@pytest.mark.parametrize("case", cases("davis_jf"))
def test_davis_binary(case: Case) -> None:
    stored = case.arrays()
    predicted, target = stored["in_bin_pred"].astype(bool), stored["in_bin_gt"].astype(bool)
    counts = [
        pair_counts(p, t, num_predicted=1, num_objects=1, tolerance=case.config["bound_th"])
        for p, t in zip(predicted, target, strict=True)
    ]
    case.check("out_bin_J", np.array([frame.j()[0, 0] for frame in counts]))
    case.check("out_bin_F", np.array([frame.f()[0, 0] for frame in counts]))
    case.check("out_bmap", np.stack([boundary(mask) for mask in target]).astype(np.uint8))
