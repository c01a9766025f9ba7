"""Stage B: masks to clusters by the features of their crops, clusters to classes; names can be edited and applied."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score

from common.errors import InputError
from common.files import atomic_path, check_file, write_image
from common.messages import is_main_process, tell, warn
from common.options import TrainerFlags
from common.report import build_report
from common.visualize import image_grid
from maskdistill import voc
from maskdistill.annotations import category_table
from maskdistill.backbones import make_backbone, weights_hash
from maskdistill.clustering import (
    Clusters,
    clustering_scores,
    match_hungarian,
    match_majority,
    minibatch_kmeans,
    normalise_features,
)
from maskdistill.coco_files import CocoFile, Parts, read_coco, stands, write_coco
from maskdistill.crops import NO_TARGET, Crops, MaskSet, features_of, read_masks, targets_of
from maskdistill.instance_evaluation import evaluate_instances
from maskdistill.options import ClusterOptions

COLUMNS = ("cluster", "category_id", "name", "masks", "purity")
SHEET_CROPS, SHEET_COLUMNS, CROP_PX = 40, 10, 72

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Clustering:
    """Clusters of the masks of file 1, and what they are called."""

    labels: Labels
    """(M,) cluster of each mask, -1 for one without a crop."""
    categories: Labels
    """(K,) category id of each cluster, -1 to leave its masks out."""
    names: list[str]
    """(K,) name of each cluster."""
    purity: list[float | None]
    """(K,) share of the most frequent class, where classes are known."""
    table: list[dict[str, Any]]
    """The category list of the output."""


def cluster_masks(options: ClusterOptions, flags: TrainerFlags) -> Path | None:
    """Stage B: write ``output_file``; nothing is done where it stands already.

    Raises:
        InputError: Files, weights or options that cannot be used; fewer masks than clusters.
    """
    _check(options)
    assert options.input_file1 is not None
    truths = [read_coco(file) if file else None for file in (options.gt_file1, options.gt_file2)]
    masks = [read_masks(options.input_file1, options.dataset_root1, truths[0])]
    if options.input_file2:
        masks.append(read_masks(options.input_file2, options.dataset_root2, truths[1]))
    network = make_backbone(options.weights, options.model, options.patch_size)
    output, source = options.output_file, _source(options, masks, weights_hash(network))
    if output is not None and stands(output, source, options.overwrite, "--output_file"):
        tell(f"{output}: stands already")
        return output
    arguments: dict[str, Any] = {
        "batch_size": options.batch_size,
        "num_workers": options.num_workers,
        "gpus": options.gpus,
    }
    found = [features_of(part, network, options.save_dir, flags=flags, **arguments) for part in masks]
    if not is_main_process():
        return output
    roots = (options.dataset_root1, options.dataset_root2)
    targets = [targets_of(part, truth, root) for part, truth, root in zip(masks, truths, roots, strict=False)]
    known = [part for part in targets if part is not None]
    joined = np.concatenate(known) if len(known) == len(masks) else None
    clustering, report = _cluster(options, np.concatenate(found), joined, truths[0], len(found[0]))
    if options.names:
        clustering = _renamed(clustering, options.names)
    if output is not None:
        _write(options, output, masks[0], clustering, report, source)
    if truths[0] is not None and truths[0].annotations:
        _print_box_ap50(masks[0], truths[0], clustering)
    return output


def _cluster(
    options: ClusterOptions, features: NDArray[np.float32], targets: Labels | None, truth: CocoFile | None, first: int
) -> tuple[Clustering, dict[str, Any]]:
    """K-means on all features, names for its clusters, scores of all trials."""
    valid = ~np.isnan(features[:, 0])
    constant = int((features[valid].std(axis=0) == 0).sum())
    if constant:
        warn(f"{constant} of {features.shape[1]} feature dimensions never change; they stay unscaled")
    unit = normalise_features(features[valid])
    num_classes = _num_classes(options, truth, targets)
    report: dict[str, Any] = {"masks": int(valid.sum())}
    if options.max_classes is not None:
        num_classes, report["silhouette"] = choose_count(unit, options.max_classes, options)
        tell(f"{num_classes} clusters have the best silhouette")
    K = num_classes * options.overcluster
    seeds = [options.seed + trial for trial in range(options.num_trials)]
    trials = minibatch_kmeans(unit, K, seeds, options.n_init)
    best = min(range(len(trials)), key=lambda trial: trials[trial].inertia)
    labels = np.full(len(features), -1, np.int64)
    labels[valid] = trials[best].labels
    report |= {"clusters": K, "inertia": [trial.inertia for trial in trials], "kept_trial": best}
    if targets is None:
        names = [f"cluster_{k:02d}" for k in range(K)]
        return Clustering(labels[:first], np.arange(K), names, [None] * K, category_table(names)), report
    used = targets[valid] != NO_TARGET
    classes = [_match(trial, targets[valid], used, K, options.overcluster) for trial in trials]
    report["scores"] = _scores(trials, classes, targets[valid], used, best)
    table = _category_table(options, truth, num_classes)
    categories, names = _named(classes[best], table, K)
    purity = [_purity(targets[(labels == k) & (targets != NO_TARGET)]) for k in range(K)]
    return Clustering(labels[:first], categories, names, purity, table), report


def choose_count(unit: NDArray[np.float32], most: int, options: ClusterOptions) -> tuple[int, dict[str, float]]:
    """The number of clusters in 2..most of the best silhouette, on at most 5000 samples, and the curve."""
    if len(unit) <= most:
        raise InputError(f"--max_classes {most}: there are only {len(unit)} masks; give a smaller number")
    curve = {}
    for count in range(2, most + 1):
        (run,) = minibatch_kmeans(unit, count, [options.seed], options.n_init)
        several = len(np.unique(run.labels)) > 1
        sample = min(5000, len(unit))
        curve[str(count)] = (
            float(silhouette_score(unit, run.labels, sample_size=sample, random_state=0)) if several else -1.0
        )
    return int(max(curve, key=lambda count: curve[count])), curve


def _num_classes(options: ClusterOptions, truth: CocoFile | None, targets: Labels | None) -> int:
    fixed = {"VOC": 20, "COCO": 80}
    expected = next((count for name, count in fixed.items() if name in options.dataset.upper()), None)
    if targets is None:
        return options.num_classes
    if expected is None and truth is not None:
        expected = len(truth.categories)
    if expected is not None and options.num_classes != expected:
        raise InputError(
            f"--num_classes {options.num_classes}: with ground truth it must be {expected}, the number of classes;"
            " --overcluster makes more clusters"
        )
    return options.num_classes


def _match(trial: Clusters, targets: Labels, used: NDArray[np.bool_], K: int, overcluster: int) -> Labels:
    """Class of each cluster, -1 for none. Classes are numbered in the order of those that occur."""
    present, places = np.unique(targets[used], return_inverse=True)
    labels = trial.labels[used].astype(np.int64)
    if overcluster > 1:
        matched = match_majority(labels, places.astype(np.int64), K)
    elif len(present) > K:
        raise InputError(f"the ground truth has {len(present)} classes, there are {K} clusters; raise --num_classes")
    else:
        matched = match_hungarian(labels, places.astype(np.int64), K)
    named = np.append(present, np.full(max(K - len(present), 0) + 1, NO_TARGET))
    return named[matched].astype(np.int64)


def _scores(
    trials: Sequence[Clusters], classes: Sequence[Labels], targets: Labels, used: NDArray[np.bool_], best: int
) -> dict[str, Any]:
    runs = [
        clustering_scores(trial.labels[used].astype(np.int64), targets[used], matched)
        for trial, matched in zip(trials, classes, strict=True)
    ]
    means = {
        name: (float(np.mean([r[name] for r in runs])), float(np.std([r[name] for r in runs]))) for name in runs[0]
    }
    for name, value in runs[best].items():
        spread = f" (mean {means[name][0]:.2f} +- {means[name][1]:.2f} of {len(runs)})" if len(runs) > 1 else ""
        print(f"{name.upper()} {value:.2f}{spread}")
    return {**runs[best], "mean_std": means}


def _category_table(options: ClusterOptions, truth: CocoFile | None, num_classes: int) -> list[dict[str, Any]]:
    if truth is not None and truth.categories:
        return [entry for entry in truth.categories if entry["name"] != "background"]
    if num_classes == len(voc.CLASSES):
        return voc.categories()
    return category_table([f"class_{index:02d}" for index in range(num_classes)])


def _named(classes: Labels, table: Sequence[Mapping[str, Any]], K: int) -> tuple[Labels, list[str]]:
    """Category ids and names; a cluster without a class takes an id that no other has, and keeps its own name."""
    names_by_id = {int(entry["id"]): str(entry["name"]) for entry in table}
    categories = classes.copy()
    names = [names_by_id.get(int(category), f"cluster_{k:02d}") for k, category in enumerate(classes)]
    free = [number for number in names_by_id if number not in set(classes.tolist())]
    unnamed = np.flatnonzero(classes == NO_TARGET)
    for k, number in zip(unnamed, free, strict=False):
        categories[k] = number
    if len(unnamed):
        warn(f"{len(unnamed)} of {K} clusters match no class that occurs; they keep the names cluster_NN")
    return categories, names


def _purity(targets: Labels) -> float | None:
    return float(np.bincount(targets).max() / len(targets)) if len(targets) else None


def _renamed(clustering: Clustering, file: Path) -> Clustering:
    """The same clusters under the ids and names of an edited table."""
    rows = _read_names(file, len(clustering.categories))
    categories, names = clustering.categories.copy(), list(clustering.names)
    for k, (category, name) in rows.items():
        categories[k], names[k] = category, name
    table = {int(entry["id"]): dict(entry) for entry in clustering.table}
    for category, name in zip(categories.tolist(), names, strict=True):
        if category >= 0:
            table[category] = {"supercategory": "", "id": category, "name": name}
    return Clustering(clustering.labels, categories, names, clustering.purity, [table[key] for key in sorted(table)])


def _read_names(file: Path, K: int) -> dict[int, tuple[int, str]]:
    with check_file(file, "cluster names").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"cluster", "category_id", "name"} <= set(rows[0]):
        raise InputError(f"{file}: needs the columns cluster, category_id, name")
    found: dict[int, tuple[int, str]] = {}
    for line, row in enumerate(rows, start=2):
        cluster, category = str(row["cluster"]).strip(), str(row["category_id"] or "").strip()
        if not cluster.isdecimal() or int(cluster) >= K or (category and not category.lstrip("-").isdecimal()):
            raise InputError(f"{file}: line {line}: cluster {cluster!r} (0 to {K - 1}), category_id {category!r}")
        found[int(cluster)] = (int(category) if category else -1, str(row["name"] or "").strip())
    return found


def _write(
    options: ClusterOptions,
    output: Path,
    masks: MaskSet,
    clustering: Clustering,
    report: dict[str, Any],
    source: dict[str, Any],
) -> None:
    """The output, and beside it names, scores and contact sheets."""
    stem = output.with_suffix("")
    sizes = np.bincount(clustering.labels[clustering.labels >= 0], minlength=len(clustering.names))
    with atomic_path(Path(f"{stem}_clusters.csv")) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for k, name in enumerate(clustering.names):
            category = clustering.categories[k]
            purity = clustering.purity[k]
            shown = "" if purity is None else f"{purity:.3f}"
            writer.writerow([k, category if category >= 0 else "", name, sizes[k], shown])
    with atomic_path(Path(f"{stem}_scores.json")) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    if options.sheets:
        folder = Path(f"{stem}_samples")
        contact_sheets(masks, clustering, folder / "samples", options.patch_size)
        build_report(folder, title=f"clusters of {output.name}")
    kept = [
        {"score": 1.0, **entry, "category_id": int(clustering.categories[label])}
        for entry, label in zip(masks.content.annotations, clustering.labels.tolist(), strict=True)
        if label >= 0 and clustering.categories[label] >= 0
    ]
    write_coco(output, masks.content.images, kept, clustering.table)
    Parts(output, source).finish()
    left = f"; {int((sizes == 0).sum())} clusters are empty" if (sizes == 0).any() else ""
    print(f"{output}: {len(kept)} masks in {len(clustering.names)} clusters{left}")


def contact_sheets(masks: MaskSet, clustering: Clustering, folder: Path, patch_size: int) -> None:
    """One picture of up to forty crops per cluster."""
    import cv2

    shutil.rmtree(folder, ignore_errors=True)  # of an earlier clustering
    crops = Crops(masks, patch_size)
    for k, name in enumerate(clustering.names):
        rows = np.flatnonzero(clustering.labels == k)
        chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), SHEET_CROPS)).astype(int)] if len(rows) else rows
        cells = []
        for row in chosen:
            crop = crops.crop(int(row))
            scale = CROP_PX / max(crop.shape[:2])
            size = (max(round(crop.shape[1] * scale), 1), max(round(crop.shape[0] * scale), 1))
            cells.append(cv2.resize(crop, size, interpolation=cv2.INTER_AREA))
        if cells:
            safe = "".join(letter if letter.isalnum() else "-" for letter in name)
            picture = image_grid(cells, columns=min(SHEET_COLUMNS, len(cells)))
            write_image(folder / f"cluster_{k:02d}_{safe}_{len(rows)}.png", picture)


def _print_box_ap50(masks: MaskSet, truth: CocoFile, clustering: Clustering) -> None:
    """The box AP50 of the pseudo-labels, where both files number the images alike."""
    ids = {image["id"] for image in truth.images}
    found = [
        {**entry, "category_id": int(clustering.categories[label]), "score": entry.get("score", 1.0)}
        for entry, label in zip(masks.content.annotations, clustering.labels.tolist(), strict=True)
        if label >= 0 and entry["image_id"] in ids
    ]
    if found:
        print(f"box AP50 of the masks is {100 * evaluate_instances(truth.as_dict(), found, 'bbox').ap50:.2f}")


def _source(options: ClusterOptions, masks: Sequence[MaskSet], weights: str) -> dict[str, Any]:
    """What the output depends on."""
    from maskdistill.coco_files import file_hash

    names = ("dataset", "num_classes", "overcluster", "max_classes", "n_init", "num_trials", "seed")
    files = ("input_file1", "input_file2", "gt_file1", "gt_file2", "names")
    given = {name: getattr(options, name) for name in files}
    return {
        "weights": weights,
        **{name: getattr(options, name) for name in names},
        **{name: file_hash(path) if path else None for name, path in given.items()},
    }


def _check(options: ClusterOptions) -> None:
    if options.input_file1 is None:
        raise InputError("give --input_file1, the masks of stage A or a results list")
    for name in ("num_classes", "overcluster", "n_init", "num_trials", "batch_size"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: give at least 1")
    if options.max_classes is not None and options.max_classes < 2:
        raise InputError(f"--max_classes {options.max_classes}: give at least 2")
