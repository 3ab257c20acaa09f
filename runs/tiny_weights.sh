#!/usr/bin/env bash
# Make the Stage-1 and Stage-2 weights that ship in src/wan_alpha/assets/tiny, from the tiny base (runs/tiny_base.py) alone.
#
#   command    runs/tiny_weights.sh [OUTPUT]      (default build/tiny_weights)
#   hardware   one to two CPU cores with bfloat16 arithmetic (AVX512-BF16)
#   time       about 70 minutes; Ctrl-C and --resume latest work in every training
#   expected   the figures in src/wan_alpha/assets/tiny/README.md
#
# Stage 1 in four runs: everything new at one rate; a tenfold rate for the decoder LoRA, whose scale is 1/16; twice as many steps on
# windows of nine frames; whole clips at a falling rate. Each run starts from the last one's weights.
set -euo pipefail
out=${1:-build/tiny_weights}
wan=${WAN_ALPHA:-wan-alpha}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}
newest() { ls -t "$@" | head -n 1; }

$wan prepare --recipe tiny --synthetic 320 --output_path "$out/data"
previous=
stage1() { # name, then flags
  local name=$1; shift
  $wan train-vae --recipe tiny --dataset_base_path "$out/data" --output_path "$out/$name" --warmup_steps 50 --dataset_repeat 16 \
    --feature_merge_checkpoint "${previous:-None}" "$@"
  previous=$(newest "$out/$name"/stage1_epoch_*.safetensors)
}
