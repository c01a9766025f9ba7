"""Stages A to F, all evaluations and the report of one run; what stands already is not made again."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from common.cli import DONE
from common.errors import InputError
from common.evaluate import score_lines
from common.files import atomic_path, check_writable
from common.messages import is_first_process, is_main_process, tell
from common.metrics.protocol import Protocol, Score, read_scores, write_scores
from common.options import RunOptions, TrainerFlags
from common.prediction import prediction_flags
from common.report import build_report
from common.splits import read_split, write_classes
from common.training import to_plain
from maskdistill import stages
from maskdistill.chain_data import ChainData, chain_data, write_images, write_objects
from maskdistill.chain_options import ChainDataOptions, ChainOptions, StageOptions
from maskdistill.chain_pictures import draw_overviews
from maskdistill.instance_scores import score as score_instances
from maskdistill.options import DetectOptions, EvaluateInstancesOptions
from maskdistill.segmentation.module import LinearProbeModule, SegmentationModule
from maskdistill.segmentation.options import SegmentationOptions
from maskdistill.segmentation.scoring import score_labels
from maskdistill.segmentation.training import train_and_label


@dataclass(frozen=True)
class Chain:
    """A run: its options and folder."""

    options: ChainOptions
    stages: StageOptions
    data: ChainData
    run: RunOptions
    flags: TrainerFlags
    out: Path

    def run_of(self, name: str) -> RunOptions:
        """Run options of a training stage, which goes on with what stands."""
        return replace(self.run, out=self.out / name, resume=True, ckpt_path=None)


def run_all(
    options: ChainOptions, stage_options: StageOptions, data: ChainDataOptions, run: RunOptions, flags: TrainerFlags
) -> int:
    """The whole chain; see ``maskdistill/run.py``.

    Raises:
        InputError: Options or data that cannot be used.
    """
    start = time.time()
    out = run.out or Path("runs/maskdistill")
    _claim(out, run, (options, stage_options, data, run, flags))
    chain = Chain(options, stage_options, chain_data(data, out / "data"), run, flags, out)
    tell("A: one object mask per image")
    masks = make_masks(chain)
    tell("B: clusters")
    clusters = cluster(chain, masks)
    tell("C: Mask R-CNN")
    detections = detect(chain, clusters)
    tell("D: label maps")
    label_maps = paint(chain, detections)
    num_classes, names = _classes(chain, clusters)
    tell("E: semantic network")
    rounds = [train(chain, "E_deeplab", num_classes, label_maps, 0)]
    for number in range(1, options.crf_rounds + 1):
        tell(f"F: CRF round {number} of {options.crf_rounds}")
        maps = label_training_images(chain, _stage(number - 1), num_classes, rounds[-1].distill_dir)
        rounds.append(train(chain, _stage(number), num_classes, maps, number))
    refine_last(chain, rounds[-1], num_classes)
    if options.probe and chain.data.has_classes(chain.data.train):
        tell("linear probe")
        probe(chain, rounds[-1])
    if is_main_process():
        write_classes(out / "labels", names)
        lines = finish(chain, masks, clusters, detections, label_maps, len(rounds))
        report = build_report(out, title="maskdistill")
        print("\n".join(lines))
        print(f"report: {report}\n{(time.time() - start) / 60:.1f} minutes")
    return DONE


def _claim(out: Path, run: RunOptions, options: tuple[object, ...]) -> None:
    if not is_first_process():
        return
    check_writable(out)
    file = out / "config.yaml"
    if file.exists() and not run.resume:
        raise InputError(f"{out}: holds a run already; add --resume to continue it, or give another --out")
    config: dict[str, object] = {}
    for part in options:
        config.update(to_plain(part))
    with atomic_path(file) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False))


def make_masks(chain: Chain) -> Path:
    """Stage A on the training images."""
    file = chain.out / "A_masks" / "masks.json"
    options = replace(
        chain.stages.masks,
        dataset="csv",
        data_file=chain.data.train.file,
        base_dir=chain.data.base_dir,
        pred_json_path=file,
        gpus=chain.run.gpus,
    )
    stages.make_masks(options, prediction_flags(chain.flags))
    return file


def cluster(chain: Chain, masks: Path) -> Path:
    """Stage B; with ground truth, clusters take the names of classes."""
    file, truth = chain.out / "B_clusters" / "clusters.json", None
    if chain.data.has_objects(chain.data.train):
        truth = chain.out / "data" / "objects_train.json"
        if is_first_process() and not truth.exists():
            write_objects(chain.data, chain.data.train, truth)
    count = chain.options.num_clusters or (_num_true(chain) - 1 if chain.data.classes else 20)
    options = replace(
        chain.stages.cluster,
        dataset="csv",
        num_classes=count,
        dataset_root1=chain.data.base_dir,
        input_file1=masks,
        gt_file1=truth,
        output_file=file,
        save_dir=chain.out / "B_clusters" / "features",
        gpus=chain.run.gpus,
    )
    stages.cluster_masks(options, prediction_flags(chain.flags))
    return file


def detect(chain: Chain, clusters: Path) -> Path:
    """Stage C: train, then detect on the training and the validation images."""
    data = replace(chain.stages.detection, input_file=clusters, image_dir=chain.data.base_dir, val_file=None)
    flags = replace(chain.flags, max_epochs=None, max_steps=-1, gradient_clip_val=chain.options.detector_clip)
    folder = chain.run_of("C_detector")
    stages.train_detector(chain.stages.detector, chain.stages.solver, data, folder, flags)
    assert folder.out is not None
    images = chain.out / "data" / "images_val.json"
    if is_first_process() and not images.exists():
        write_images(chain.data.val, images)
    found = {}
    for name, file in (("train", clusters), ("val", images)):
        options = DetectOptions(
            model_dir=folder.out,
            images=file,
            image_dir=chain.data.base_dir,
            set=name,
            batch_size=data.batch_size,
            num_workers=data.num_workers,
            gpus=chain.run.gpus,
        )
        found[name] = stages.detect(options, prediction_flags(chain.flags))
    return found["train"]


def paint(chain: Chain, detections: Path) -> Path:
    """Stage D on the training images."""
    folder = chain.out / "D_label_maps"
    options = replace(
        chain.stages.label_maps,
        input_file=detections,
        gt_file=detections.with_name("gt_train.json"),
        output_file=folder / "kept.json",
        save_dir=folder,
        image_dir=chain.data.base_dir,
        threshold=chain.options.threshold,
    )
    if is_main_process():
        stages.paint_label_maps(options)
    return folder / "label_maps.csv"


@dataclass(frozen=True)
class Round:
    """A trained network of stage E or F."""

    folder: Path
    distill_dir: Path


def train(chain: Chain, name: str, num_classes: int, label_maps: Path, number: int) -> Round:
    """Stage E, or a round of stage F: train from the initial weights, label and score the validation images."""
    model = replace(chain.stages.segmentation, num_classes=num_classes)
    data = replace(
        chain.stages.semantic,
        data_file=chain.data.name,
        base_dir=chain.data.base_dir,
        train_db_name="VOCSegmentationDistill",
        distill_dir=label_maps,
    )
    labels = replace(chain.stages.labels, crf_postprocess=False, crf_train=False, model_path=None)
    train_and_label(SegmentationModule, model, data, labels, chain.run_of(name), chain.flags)
    return Round(chain.out / name, label_maps)


def label_training_images(chain: Chain, name: str, num_classes: int, distill_dir: Path) -> Path:
    """Stage F, first half: the network's label maps of the training images, through the CRF."""
    folder = chain.out / name
    model = replace(chain.stages.segmentation, num_classes=num_classes)
    data = replace(
        chain.stages.semantic, data_file=chain.data.name, base_dir=chain.data.base_dir, distill_dir=distill_dir
    )
    labels = replace(chain.stages.labels, crf_postprocess=True, crf_train=True, model_path=folder)
    return train_and_label(SegmentationModule, model, data, labels, chain.run_of(name), chain.flags)


def refine_last(chain: Chain, last: Round, num_classes: int) -> None:
    """Label the validation images with the last network and the CRF."""
    model = replace(chain.stages.segmentation, num_classes=num_classes)
    data = replace(chain.stages.semantic, data_file=chain.data.name, base_dir=chain.data.base_dir)
    labels = replace(chain.stages.labels, crf_postprocess=True, crf_train=False, model_path=last.folder, overwrite=True)
    run = replace(chain.run, out=chain.out / "F_final", resume=True)
    train_and_label(SegmentationModule, model, data, labels, run, chain.flags)


def probe(chain: Chain, last: Round) -> None:
    """A linear probe on the last network."""
    model: SegmentationOptions = replace(chain.stages.linear, pretrained=last.folder, num_classes=None)
    data = replace(
        chain.stages.semantic,
        data_file=chain.data.name,
        base_dir=chain.data.base_dir,
        train_db_name="VOCSegmentation",
        distill_dir=None,
    )
    labels = replace(chain.stages.labels, crf_postprocess=False, crf_train=False, model_path=None)
    train_and_label(LinearProbeModule, model, data, labels, chain.run_of("linear"), chain.flags)


def _stage(number: int) -> str:
    return "E_deeplab" if number == 0 else f"F_round{number}"


def _num_true(chain: Chain) -> int:
    assert chain.data.classes is not None
    return max(index for index in chain.data.classes if index < 255) + 1


def _classes(chain: Chain, clusters: Path) -> tuple[int, dict[int, str]]:
    """Outputs of the semantic network and their names: 1 + category id of stage B."""
    categories = json.loads(clusters.read_text())["categories"]
    names = {0: "background", **{int(entry["id"]) + 1: str(entry["name"]) for entry in categories}}
    count = max(names) + 1
    return max(count, _num_true(chain)) if chain.data.classes else count, names


def finish(chain: Chain, masks: Path, clusters: Path, detections: Path, label_maps: Path, num_rounds: int) -> list[str]:
    """Gather the scores of all stages, draw an overview per stage; lines to print."""
    folders = [_stage(number) for number in range(num_rounds)] + ["F_final", "linear"]
    draw_overviews(chain.out, chain.data, masks, clusters, detections, label_maps, folders[:num_rounds])
    scores: list[Score] = []
    if chain.data.classes is not None:
        for name in folders:
            if (chain.out / name / "scores.json").exists():
                scores += [
                    replace(score, name=f"{name.lower()}_{score.name}")
                    for score in read_scores(chain.out / name / "scores.json")
                ]
        if chain.data.has_classes(chain.data.train):
            scores += _label_map_scores(chain, label_maps)
    if chain.data.has_objects(chain.data.val):
        scores += _instance_scores(chain, detections.with_name("mask_rcnn_val.json"))
    write_scores(chain.out / "scores.json", scores)
    return score_lines([score for score in scores if "miou" in score.name or "ap50" in score.name])


def _label_map_scores(chain: Chain, label_maps: Path) -> list[Score]:
    """How well the label maps of stage D show the ground truth of the training images."""
    assert chain.data.classes is not None
    painted = read_split(label_maps, base_dir=label_maps.parent)
    files = {painted.path(row, "Image").resolve(): painted.path(row, "Pred") for row in range(len(painted))}
    train = chain.data.train
    cells = [str(files[train.path(row, "Image").resolve()].resolve()) for row in range(len(train))]
    split = type(train).from_rows(train.frame.assign(Pred=cells), train.base_dir, label_maps)
    found = score_labels(split, chain.data.classes, notes="training images; 255 in a label map is a missed pixel")
    return [replace(score, name=f"d_label_maps_{score.name}") for score in found.scores]


def _instance_scores(chain: Chain, results: Path) -> list[Score]:
    """Mask AP50 on the validation images, all detections and the most confident one of each image."""
    truth = chain.out / "data" / "objects_val.json"
    if not truth.exists():
        write_objects(chain.data, chain.data.val, truth)
    scores = []
    for name, single in (("multi", False), ("single", True)):
        found = score_instances(EvaluateInstancesOptions(input_file=results, gt_file=truth, eval_most_confident=single))
        protocol = Protocol(averaging="classes", notes=f"COCO mask AP50, {name}, validation images")
        scores.append(Score(f"c_detector_ap50_{name}", found["ap50"] / 100, protocol, len(chain.data.val)))
    return scores
