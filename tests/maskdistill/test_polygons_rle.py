"""Polygons and run-length codes: properties, and what they do with odd masks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask
from scipy import ndimage

from common.errors import InputError
from maskdistill import rle
from maskdistill.annotations import annotation_entry
from maskdistill.polygons import find_contours, mask_to_polygons, simplify

masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


@settings(deadline=None, max_examples=60)
@given(masks)
def test_code_equals_pycocotools_and_decodes(mask):
    code = rle.encode(mask)
    as_bytes = {"size": code["size"], "counts": code["counts"].encode()}
    assert rle.bounding_box(mask) == coco_mask.toBbox(as_bytes).tolist()
    np.testing.assert_array_equal(rle.decode(code, mask.shape), mask)
    np.testing.assert_array_equal(rle.decode({"size": list(mask.shape), "counts": rle.runs(mask)}, mask.shape), mask)


@settings(deadline=None, max_examples=60)
@given(masks)
def test_one_contour_per_component_and_hole(mask):
    padded = np.pad(mask, 1)
    components = ndimage.label(padded)[1]
    holes = ndimage.label(~padded, structure=np.ones((3, 3)))[1] - 1
    contours = find_contours(padded)
    assert len(contours) == components + holes
    for ring in contours:
        np.testing.assert_array_equal(ring[0], ring[-1])
        assert len(np.unique(ring[:-1], axis=0)) == len(ring) - 1
        assert (np.abs(np.diff(ring, axis=0)).max(1) <= 1).all()


@settings(deadline=None, max_examples=40)
@given(masks)
def test_contours_enclose_the_area_between_pixels(mask):
    """By the shoelace formula: components count positive, holes negative; corners are cut by an eighth each."""
    area = 0.0
    corners = 0
    for ring in find_contours(np.pad(mask, 1)):
        rows, columns = ring.T
        area += 0.5 * float(np.sum(rows[:-1] * columns[1:] - rows[1:] * columns[:-1]))
        diagonal = (np.abs(np.diff(ring, axis=0)) == 0.5).all(1)
        corners += int(diagonal.sum())
    assert abs(abs(area) - mask.sum()) <= corners / 8 + 1e-9


def test_simplified_chain_keeps_ends_and_stays_near():
    generator = np.random.default_rng(0)
    chain = generator.normal(size=(200, 2)).cumsum(0)
    short = simplify(chain, 1.5)
    assert 2 <= len(short) < len(chain)
    np.testing.assert_array_equal(short[[0, -1]], chain[[0, -1]])
    dense = np.concatenate([np.linspace(a, b, 200) for a, b in itertools.pairwise(short)])
    assert max(np.linalg.norm(dense - point, axis=1).min() for point in chain) <= 1.5 + 0.1
    np.testing.assert_array_equal(simplify(chain, 0), chain)


def test_hole_becomes_a_ring_that_the_rasteriser_fills():
    mask = np.zeros((30, 30), dtype=bool)
    mask[3:27, 3:27] = True
    mask[10:20, 10:20] = False
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 2
    assert rle.decode(polygons, mask.shape)[15, 15]


def test_entries_of_empty_and_tiny_masks():
    empty, pixel = np.zeros((5, 6), dtype=bool), np.zeros((5, 6), dtype=bool)
    pixel[2, 3] = True
    for form in ("rle", "polygon"):
        assert annotation_entry(empty, annotation_id=0, image_id=0, segmentation_format=form) is None
    assert annotation_entry(pixel, annotation_id=0, image_id=0, segmentation_format="polygon") is None
    entry = annotation_entry(pixel, annotation_id=0, image_id=0)
    assert entry is not None
    assert (entry["area"], entry["bbox"], entry["height"], entry["width"]) == (1, [3.0, 2.0, 1.0, 1.0], 5, 6)
    np.testing.assert_array_equal(rle.decode(entry["segmentation"], (5, 6)), pixel)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 4], "counts": "04L4"}, r"size \[4, 4\] differs from the image's \[5, 6\]"),
        ([[0.0, 0.0, 1.0, 1.0]], "polygon of 4 numbers"),
    ],
)
def test_segmentations_that_do_not_fit(segmentation, message):
    with pytest.raises(InputError, match=message):
        rle.decode(segmentation, (5, 6))


def test_no_polygon_is_an_empty_mask():
    assert not rle.decode([], (5, 6)).any()
