import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.files import voc_palette
from stflow.foreground import (
    RULES,
    LabelCounts,
    _count_bits,
    _count_codes,
    binarise_argmax,
    dump_stat_masks,
    foreground,
    label_counts,
    mask_of,
    num_labels_used,
    optimax_picks,
    parse_stat_masks,
    select_labels,
    stat_masks,
    union_iou,
)
from stflow.linking import cut
from stflow.multimask import indexed_image, nearest_indices


def images(seed=0, B=3, L=4, I=6, J=5):  # noqa: E741
    g = torch.Generator().manual_seed(seed)
    return torch.randint(L, (B, I, J), generator=g), torch.rand(B, I, J, generator=g) > 0.6


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else torch.tensor(1.0)


def test_counts_by_hand():
    labels = torch.tensor([[[0, 0, 2], [2, 2, 2]]])
    gt = torch.tensor([[[0, 255, 255], [0, 0, 255]]])
    counts = label_counts(labels, gt, 4)
    assert (counts.size.tolist(), counts.overlap.tolist(), counts.gt.tolist()) == ([[2, 0, 4, 0]], [[1, 0, 2, 0]], [3])


def test_rules_by_hand():
    # sizes 5 5 2 0, inside the ground truth of 7 pixels: 1 3 2 0
    counts = LabelCounts(torch.tensor([[5, 5, 2, 0]]), torch.tensor([[1, 3, 2, 0]]), torch.tensor([7]))
    expected = {
        "exceptbiggest": [False, True, True, True],
        "fair": [False, True, True, False],
        "optimax": [False, True, True, False],  # 3/9 beats 2/7; with label 2: 5/9; with label 0: 6/13
        "optimax_exact": [False, True, True, False],
    }
    for rule, selected in expected.items():
        assert RULES[rule](counts).tolist() == [selected], rule
    assert optimax_picks(counts).tolist() == [[1, 2, 1, 1]]
    assert union_iou(counts, torch.tensor([expected["fair"]])).item() == pytest.approx(5 / 9)


def test_empty_ground_truth_and_single_segment():
    labels = torch.zeros(1, 3, 3, dtype=torch.uint8)
    for gt in (torch.zeros(1, 3, 3), torch.ones(1, 3, 3)):
        counts = label_counts(labels, gt, 3)
        for rule in RULES.values():
            assert union_iou(counts, rule(counts)).isfinite().all()
        assert union_iou(counts, RULES["optimax_exact"](counts)).item() == 1
    assert foreground(labels, None, 3, "exceptbiggest").sum() == 0


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), L=st.integers(1, 5))
def test_exact_choice_is_the_best_of_all_subsets(seed, L):
    labels, gt = images(seed, B=1, L=L, I=3, J=4)
    counts = label_counts(labels, gt, L)
    exact = union_iou(counts, RULES["optimax_exact"](counts)).item()
    subsets = itertools.product([False, True], repeat=L)
    assert exact == max(union_iou(counts, torch.tensor([subset])).item() for subset in subsets)
    assert exact >= union_iou(counts, RULES["optimax"](counts)).item()
    assert exact >= union_iou(counts, RULES["fair"](counts)).item()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), L=st.integers(1, 5))
def test_greedy_choice_equals_the_one_on_masks(seed, L):
    labels, gt = images(seed, L=L)
    for image, truth, picks in zip(labels, gt, optimax_picks(label_counts(labels, gt, L)), strict=True):
        mask = torch.zeros_like(truth)
        for pick in picks.tolist():
            scores = [float(iou(mask | (image == k), truth)) for k in range(L)]
            assert pick == int(np.argmax(scores))
            mask |= image == pick


@pytest.mark.parametrize("rule", RULES)
def test_iou_of_counts_is_that_of_masks_and_the_batch_equals_its_items(rule):
    labels, gt = images(B=4)
    counts = label_counts(labels, gt, 4)
    masks = foreground(labels, gt, 4, rule)
    expected = torch.stack([iou(mask, truth) for mask, truth in zip(masks, gt, strict=True)])
    torch.testing.assert_close(
        union_iou(counts, RULES[rule](counts)), expected.double(), check_dtype=False, rtol=1e-6, atol=0
    )
    items = torch.cat([foreground(labels[b, None], gt[b, None], 4, rule) for b in range(4)])
    assert torch.equal(masks, items)


@pytest.mark.parametrize("rule", ["fair", "optimax", "optimax_exact"])
def test_names_of_labels_do_not_matter(rule):
    labels, gt = images(I=40, J=50)  # large: equal counts, where the smaller label wins, are unlikely
    renamed = torch.tensor([3, 1, 0, 2])[labels]
    assert torch.equal(foreground(labels, gt, 4, rule), foreground(renamed, gt, 4, rule))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype):
    labels, gt = images()
    counts = label_counts(labels.to(dtype), gt.to(dtype), 200)
    assert torch.equal(counts.size[:, :4], torch.nn.functional.one_hot(labels).sum((1, 2)))
    assert counts.size.shape == (3, 200)


def test_mask_usage():
    assert num_labels_used(torch.tensor([[[0, 0], [0, 0]], [[3, 0], [0, 1]]])).tolist() == [1, 3]


def test_tie_of_two_layers_is_background():
    pred = torch.tensor([0.5, 0.4, 0.5, 0.6]).view(1, 2, 1, 2)
    assert binarise_argmax(pred).tolist() == [[[False, True]]]
    with pytest.raises(InputError, match="needs 2 layers, got 3"):
        binarise_argmax(torch.zeros(1, 3, 2, 2))


def test_stat_masks_survive_their_cell():
    labels, gt = images()
    statistics = stat_masks(label_counts(labels, gt, 4))
    cell = dump_stat_masks(statistics[0])
    assert "," not in cell
    assert cell.startswith('{"Size_Gt":')
    assert parse_stat_masks(cell) == statistics[0]


@pytest.mark.parametrize("rule", ["optimax", "optimax_exact"])
def test_selection_pools_the_annotated_frames_of_a_chunk(rule):
    labels, gt = images(B=9)
    annotated = torch.tensor([True, False, True, False, False, False, True, True, False])
    selection = select_labels(labels, gt, annotated, cut_size=3, num_labels=4, rule=rule)
    assert selection.frames.tolist() == [0, 2, 6, 7]  # chunks 0-3, 4-6, 7-8
    expected = []
    for chunk in cut(9, 3, shortcut=True):
        frames = torch.from_numpy(chunk)[annotated[chunk]]
        long = label_counts(labels[frames].reshape(1, -1, 5), gt[frames].reshape(1, -1, 5), 4)
        expected.append(mask_of(labels[frames], RULES[rule](long).expand(len(frames), -1)))
    assert torch.equal(selection.masks, torch.cat(expected))
    assert (selection.picks is not None) == (rule == "optimax")


def test_selection_with_a_gap_in_the_labels_or_without_annotation():
    labels = torch.tensor([0, 3]).repeat(3, 2, 2)
    selection = select_labels(labels, labels == 3)
    assert torch.equal(selection.masks, labels == 3)
    nothing = select_labels(labels, labels, torch.zeros(3, dtype=torch.bool))
    assert nothing.masks.shape == (0, 2, 4)


def test_mistakes_are_named():
    labels, gt = images()
    with pytest.raises(InputError, match="binary_method: unknown rule 'best'"):
        foreground(labels, gt, 4, "best")
    with pytest.raises(InputError, match="optimax needs ground truth"):
        foreground(labels, None, 4, "optimax")
    with pytest.raises(InputError, match="labels from 0 to 3 where there are 2"):
        label_counts(labels, gt, 2)
    with pytest.raises(InputError, match="unknown rule 'fair'"):
        select_labels(labels, gt, rule="fair")


def test_label_image_takes_the_nearest_pixel_and_adds_one():
    assert nearest_indices(5, 3).tolist() == [0, 0, 1, 1, 2]
    assert indexed_image(np.array([[0, 1]]), (1, 4)).tolist() == [[1, 1, 2, 2]]
    palette = voc_palette()
    assert len(np.unique(palette, axis=0)) == 256
    assert palette[255].tolist() == [224, 224, 192]
    with pytest.raises(ValueError, match="do not fit"):
        indexed_image(np.array([[255]]), (1, 1))


@pytest.mark.parametrize("L", [1, 4, 200])
def test_counts_on_bits_equal_counts_of_numbers(L):
    labels = torch.randint(-1, L + 1, (3, 7, 11), generator=torch.Generator().manual_seed(L))
    gt = torch.rand(3, 7, 11, generator=torch.Generator().manual_seed(1)) > 0.5
    for bits, codes in zip(_count_bits(labels, gt, L), _count_codes(labels, gt, L), strict=True):
        assert torch.equal(bits, codes)
        assert bits.shape == (3, L)
