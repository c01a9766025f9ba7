#!/bin/sh
# Label maps of VOC's trainaug images from the detections of Mask R-CNN, with the published settings.
# sh maskdistill/gen_segmentation.sh [folder of mask_rcnn_trainaug.json and gt_trainaug.json] [folder of the label maps]
set -e
here=$(cd "$(dirname "$0")" && pwd)
run=${1:-runs/mask_rcnn}
maps=${2:-$run/label_maps}
exec python "$here/gen_segmentation.py" --input_file "$run/mask_rcnn_trainaug.json" --gt_file "$run/gt_trainaug.json" \
    --threshold 0.9 --mask_type polygon --save_dir "$maps" --output_file "$run/kept_trainaug.json"
