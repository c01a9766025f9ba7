"""Detections to label maps, matching, instance scores: hand-made cases."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from maskdistill import coco, rle, voc
from maskdistill.boxes import box_iou, fill_box
from maskdistill.clustering import match_majority, minibatch_kmeans, normalise_features
from maskdistill.crf import dense_crf
from maskdistill.instance_evaluation import evaluate_instances, evaluate_most_confident, single_pairs
from maskdistill.label_maps import grabcut, keep_confident, label_map
from maskdistill.pixel_clustering import score_pixel_clusters
from maskdistill.prediction import predicted_labels

SIZE = (8, 10)


def found(rows: slice, columns: slice, category: int, score: float, image: int = 1) -> dict:
    mask = np.zeros(SIZE, dtype=bool)
    mask[rows, columns] = True
    return {
        "image_id": image,
        "category_id": category,
        "score": score,
        "bbox": rle.bounding_box(mask),
        "segmentation": rle.encode(mask),
    }


def test_overlap_rules():
    first, second = found(np.s_[2:5], np.s_[2:5], 3, 0.9), found(np.s_[4:7], np.s_[4:7], 7, 0.8)
    maps = {rule: label_map([first, second], SIZE, overlap=rule) for rule in ("keep_first", "skip", "overwrite")}
    assert maps["keep_first"][4, 4] == 4
    assert maps["overwrite"][4, 4] == 8
    assert set(np.unique(maps["skip"])) == {0, 4}
    assert set(np.unique(maps["keep_first"])) == {0, 4, 8}
    unsorted = label_map([second, first], SIZE, overlap="keep_first")
    np.testing.assert_array_equal(unsorted, maps["keep_first"])


def test_legacy_overlap_looks_at_the_first_two_rows_only():
    inside, again = found(np.s_[3:5], np.s_[2:5], 3, 0.9), found(np.s_[3:6], np.s_[2:6], 7, 0.8)
    assert label_map([inside, again], SIZE, overlap="legacy")[3, 3] == 8
    for row in (0, 1):
        touching = found(np.s_[row : row + 1], np.s_[0:2], 3, 0.9)
        assert set(np.unique(label_map([touching, again], SIZE, overlap="legacy"))) == {0, 4}
    full = found(np.s_[:], np.s_[:], 7, 0.8)  # reads row 1 only
    assert (label_map([found(np.s_[0:1], np.s_[0:2], 3, 0.9), full], SIZE, overlap="legacy") == 8).all()


def test_confident_detections_stop_at_the_first_weak_one():
    detections = [
        found(np.s_[0:2], np.s_[0:2], 0, 0.95, image=7),
        found(np.s_[0:2], np.s_[0:2], 0, 0.5, image=3),
        found(np.s_[0:2], np.s_[0:2], 0, 0.4, image=7),
        found(np.s_[0:2], np.s_[0:2], 0, 0.99, image=7),
        found(np.s_[0:2], np.s_[0:2], 0, 0.99, image=3),
    ]
    kept = keep_confident(detections, 0.9)
    assert [(e["image_id"], e["score"], e["id"], e["area"]) for e in kept] == [(7, 0.95, 0, 4.0), (3, 0.5, 1, 4.0)]


def test_boxes_and_grabcut():
    assert fill_box([2.5, 3.5, 2.0, 1.0], SIZE).nonzero()[0].tolist() == [4] * 3
    assert box_iou([0, 0, 2, 2], [[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]).tolist() == pytest.approx([1, 1 / 3, 0])
    assert box_iou([0, 0, 2, 2], []).shape == (0,)
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[20:40, 30:60] = (20, 200, 250)
    image += np.random.default_rng(0).integers(0, 6, image.shape, dtype=np.uint8)
    mask = grabcut(image, [25, 15, 40, 30])
    assert mask[22:38, 32:58].mean() > 0.95
    assert mask.mean() < 0.25
    assert not grabcut(image, [5, 5, 0, 0]).any()


def test_majority_takes_the_class_seen_first_on_a_tie():
    labels, targets = np.array([0, 0, 0, 0, 2, 2]), np.array([5, 1, 1, 5, 3, 2])
    assert match_majority(labels, targets, 3).tolist() == [5, -1, 3]


def test_constant_dimension_and_too_few_samples():
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    features[:, 2] = 3.0
    unit = normalise_features(features)
    assert np.isfinite(unit).all()
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    with pytest.raises(InputError, match="6 masks cannot make 7 clusters"):
        minibatch_kmeans(unit, 7)


def truth_of(entries: list[dict]) -> dict:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)]
    annotations = [{**e, "id": n + 1, "iscrowd": 0, "area": 9} for n, e in enumerate(entries)]
    return {"images": images, "annotations": annotations, "categories": voc.categories()}


def test_perfect_detections_score_one_and_none_score_zero():
    entries = [found(np.s_[2:5], np.s_[2:5], 3, 0.9), found(np.s_[4:7], np.s_[4:7], 7, 0.8, image=2)]
    scores = evaluate_instances(truth_of(entries), entries)
    assert scores.ap50 == pytest.approx(1.0)
    assert scores.ap50_per_class[[3, 7, 0]].tolist() == pytest.approx([1, 1, -1])
    assert evaluate_instances(truth_of(entries), []).ap50 == 0.0


def test_single_ignores_the_class_and_drops_images_without_objects():
    object_, wrong = found(np.s_[2:5], np.s_[2:5], 3, 1.0), found(np.s_[2:5], np.s_[2:5], 5, 0.9)
    tie, elsewhere = found(np.s_[2:5], np.s_[2:5], 3, 0.9), found(np.s_[2:5], np.s_[2:5], 3, 0.9, image=2)
    pairs = single_pairs(truth_of([object_]), [wrong, tie, elsewhere])
    assert [entry["category_id"] for entry in pairs.detections] == [5]
    assert [entry["id"] for entry in pairs.objects] == [1]
    assert pairs.without_object == [2]
    assert evaluate_most_confident(truth_of([object_]), [tie]).ap50 == pytest.approx(1.0)


def test_evaluation_leaves_its_input_alone():
    entries = [found(np.s_[2:5], np.s_[2:5], 3, 0.9)]
    truth = truth_of(entries)
    before = repr((truth, entries))
    evaluate_instances(truth, entries)
    assert repr((truth, entries)) == before


def test_pixel_scores_of_a_permuted_perfect_map():
    counts = np.array([[0, 0, 5], [9, 0, 0], [0, 4, 0]])
    scores = score_pixel_clusters(counts)
    assert scores.classes.tolist() == [2, 0, 1]
    assert (scores.miou, scores.accuracy, scores.nmi, scores.ari) == pytest.approx((1, 1, 1, 1))


def test_prediction_resizing_and_crf_shapes():
    logits = torch.zeros(3, 4, 4)
    logits[2, :, 2:] = 5.0
    for rule in ("labels", "logits"):
        labels = predicted_labels(logits, (6, 10), rule)
        assert labels.shape == (6, 10)
        assert (labels[:, :4] == 0).all()
        assert (labels[:, 6:] == 2).all()
    image = np.random.default_rng(0).integers(0, 255, (6, 10, 3), dtype=np.uint8)
    marginals = dense_crf(image, logits)
    np.testing.assert_allclose(marginals.sum(0), 1, rtol=1e-5)
    fewer = dense_crf(image, logits - torch.tensor([0.0, 30.0, 0.0])[:, None, None], 1e-3)
    assert not fewer[1].any()
    np.testing.assert_array_equal(fewer.argmax(0), marginals.argmax(0))


def test_coco_names_and_missing_images():
    assert coco.image_number("COCO_train2014_000000000030.jpg") == 30
    with pytest.raises(InputError, match="no image number"):
        coco.image_number("holiday.jpg")
    with pytest.raises(InputError, match=r"1 of 1 images are not in the annotation file \(first: a_1.jpg\)"):
        coco.subset({"images": [], "annotations": [], "categories": []}, ["x/a_1.jpg"])


def test_annotations_that_are_none():
    with pytest.raises(InputError, match=r"a\.xml: not a VOC annotation"):
        voc.parse_boxes("<annotation><object><name>dog</name></object></annotation>", "a.xml")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
    with pytest.raises(InputError, match="unknown class 'unicorn'"):
        voc.parse_boxes(f"<annotation><object><name>unicorn</name>{box}</object></annotation>")
    assert voc.parse_boxes("<annotation/>").boxes.shape == (0, 4)
