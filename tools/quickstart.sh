#!/usr/bin/env bash
# Photographs in; a pretrained backbone, a fine-tuned detector, AP and a report out.
#
#   bash tools/quickstart.sh [OUTPUT_DIR]      (default: output/quickstart)
#
# Needs Python 3.11 to 3.13 with pip and nothing else; uses a GPU when there is one, and is made for
# under 15 minutes on two idle CPU cores after the installation. Run it again after an interruption: each step resumes
# where it stopped, and a finished step says so.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
out=${1:-output/quickstart}
export DETECTRON2_DATASETS=${DETECTRON2_DATASETS:-$PWD/datasets}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || echo 2)}
# Threads that wait give their core up: spinning, they stall each other when the machine has other work.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
started=$SECONDS

step() {
  printf '\n== %s (%d min %02d s)\n' "$1" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
}

train() { # name of the run and of its config, further overrides
  "$python" tools/lazyconfig_train_net.py --config-file "configs/quickstart/$1.py" --resume \
    "train.output_dir=$out/$1" "${@:2}"
}

step "1/5 photographs: coral tiles with instance masks, and what scikit-image ships"
"$python" datasets/prepare_coral.py
"$python" datasets/prepare_photos.py

step "2/5 DenseCL pretraining on the photographs, without labels"
train densecl_R_18_coral

step "3/5 Mask R-CNN from the DenseCL backbone"
train mask_rcnn_R_18_coral_densecl "train.init_checkpoint=$out/densecl_R_18_coral/model_final.pth"

step "4/5 the same Mask R-CNN from random initialisation"
train mask_rcnn_R_18_coral_random

step "5/5 report"
"$python" tools/make_report.py --title "densessl quickstart" \
  --pretrain "$out/densecl_R_18_coral" \
  --finetune "DenseCL=$out/mask_rcnn_R_18_coral_densecl" \
  --finetune "random=$out/mask_rcnn_R_18_coral_random" \
  --recipe "pretraining=configs/quickstart/densecl_R_18_coral.py" \
  --recipe "DenseCL=configs/quickstart/mask_rcnn_R_18_coral_densecl.py" \
  --recipe "random=configs/quickstart/mask_rcnn_R_18_coral_random.py" \
  --score-threshold 0.3 --output "$out/report.html"
step "done: open $out/report.html"
