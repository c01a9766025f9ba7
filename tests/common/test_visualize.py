"""Pictures: palette, overlay, flow colours (against flowiz), grids and overlay videos."""

from pathlib import Path

import flowiz
import numpy as np
import pytest

from common import visualize
from common.video import video_frames


def test_voc_palette() -> None:
    palette = visualize.voc_palette()
    assert palette.shape == (256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    for index, colour in known.items():
        assert tuple(palette[index]) == colour
    assert len(np.unique(palette, axis=0)) == 256


def test_colourise_labels_refuses_values_without_colour() -> None:
    assert visualize.colourise_labels(np.array([[0, 255]])).tolist() == [[[0, 0, 0], [224, 224, 192]]]
    with pytest.raises(ValueError, match="256"):
        visualize.colourise_labels(np.array([[256]]))


def test_overlay_leaves_background_and_tints_the_rest() -> None:
    image = np.full((20, 30, 3), 100, np.uint8)
    labels = np.zeros((20, 30), int)
    labels[5:15, 5:15] = 1
    result = visualize.overlay(image, labels, alpha=0.5)
    assert (result[labels == 0] == 100).all()
    assert tuple(result[10, 10]) == (114, 50, 50)
    assert tuple(result[5, 10]) == (128, 0, 0)  # the contour is inside the region
    assert tuple(visualize.overlay(image, labels, contour=False)[5, 10]) == (114, 50, 50)
    np.testing.assert_array_equal(visualize.overlay(image, labels, alpha=0.0, contour=False), image)
    with pytest.raises(ValueError, match="differ"):
        visualize.overlay(image, labels[:10])


def test_contour_width() -> None:
    labels = np.zeros((20, 20), int)
    labels[:, 10:] = 3
    assert visualize.contours(labels, 1).sum() == 20
    assert visualize.contours(labels, 3).sum() == 60
    assert not visualize.contours(np.ones((4, 4), int)).any()


def test_flow_colours_agree_with_flowiz() -> None:
    """Same wheel and normalisation; floor and the order of operations may differ by one grey level."""
    rng = np.random.default_rng(0)
    for scale in (0.3, 5.0, 80.0):
        flow = (scale * rng.normal(size=(2, 40, 50))).astype(np.float32)
        expected = flowiz.convert_from_flow(flow.transpose(1, 2, 0)).astype(int)
        assert np.abs(visualize.flow_to_colour(flow).astype(int) - expected).max() <= 1


def test_flow_colour_rules() -> None:
    assert (visualize.flow_to_colour(np.zeros((2, 3, 4))) == 255).all()
    flow = np.zeros((2, 1, 4))
    flow[0] = [[1.0, 2.0, 4.0, np.nan]]
    one, two, beyond, unknown = visualize.flow_to_colour(flow, max_px=2.0)[0].astype(int)
    assert one.min() > two.min()  # longer is more saturated
    assert beyond.max() == pytest.approx(0.75 * two.max(), abs=1)
    assert unknown.max() == 0
    opposite = visualize.flow_to_colour(-flow, max_px=2.0)[0, 1]
    assert np.abs(opposite.astype(int) - two).max() > 100


def test_grid_places_pictures() -> None:
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    grid = visualize.image_grid([red, np.ones((2, 3), bool), np.zeros((4, 6), np.uint8)], columns=2, gap_px=1)
    assert grid.shape == (9, 13, 3)
    assert (grid[:4, :6] == [255, 0, 0]).all()
    assert (grid[5:, :6] == 0).all()
    assert (grid[5:, 7:] == 255).all()
    captioned = visualize.side_by_side(input=red.repeat(20, 1), the_mask=red.repeat(20, 1))
    assert captioned.shape == (22, 244, 3)
    assert captioned[:18].max() > 200  # the caption's letters
    with pytest.raises(ValueError, match="at least one"):
        visualize.image_grid([])
    with pytest.raises(ValueError, match="uint8"):
        visualize.image_grid([red.astype(float)])


def test_overlay_video(tmp_path: Path) -> None:
    frames = [np.full((48, 64, 3), 120, np.uint8)] * 3
    labels = [np.pad(np.ones((20, 20), int), ((k, 28 - k), (0, 44))) for k in range(3)]
    visualize.write_overlay_video(tmp_path / "a.mp4", frames, labels)
    read = list(video_frames(tmp_path / "a.mp4"))
    assert len(read) == 3
    assert read[0].shape == (48, 64, 3)
    assert int(read[0][10, 10, 0]) - int(read[0][10, 10, 1]) > 30  # tinted red
    assert abs(int(read[0][40, 50, 0]) - 120) < 8
