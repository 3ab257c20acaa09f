#!/usr/bin/env bash
# Make the Stage-1 and Stage-2 weights that ship in src/wan_alpha/assets/tiny, from the tiny base alone (runs/tiny_base.py,
# tiny_vae_sudden.py, tiny_vae_frames.py).
#
#   command    runs/tiny_weights.sh [OUTPUT]      (default build/tiny_weights)
#   hardware   two CPU cores with bfloat16 arithmetic (AVX512-BF16)
#   time       about an hour; every training goes on with --resume latest
#   expected   figures like those in src/wan_alpha/assets/tiny/README.md (the shipped files were trained in more, interrupted pieces)
#
# Stage 1: everything new at one rate; then ten times that rate for the decoder LoRA, whose scale is 1/16, on windows of nine frames.
# Stage 2: DoRA from the plain base.
set -euo pipefail
out=${1:-build/tiny_weights}
wan=${WAN_ALPHA:-wan-alpha}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}
trap 'exit 130' INT TERM
newest() { ls -t "$@" | head -n 1; }

$wan prepare --recipe tiny --synthetic 320 --output_path "$out/data"
stage1() { # OUTPUT CHECKPOINT FLAGS...
  $wan train-vae --recipe tiny --dataset_base_path "$out/data" --dataset_repeat 16 --warmup_steps 50 --output_path "$1" \
    --feature_merge_checkpoint "$2" "${@:3}"
}
stage1 "$out/vae_a" None --max_steps 600 --learning_rate 1e-3 --decoder_learning_rate 1e-3
stage1 "$out/vae_b" "$(newest "$out"/vae_a/stage1_epoch_*)" --max_steps 500 --learning_rate 1e-3 --decoder_learning_rate 1e-2 --max_scale 1.0
stage1 "$out/vae_c" "$(newest "$out"/vae_b/stage1_epoch_*)" --max_steps 3400 --num_frames 9 --learning_rate 1.5e-3 \
  --decoder_learning_rate 1.5e-2 --max_scale 1.0
stage1=$(newest "$out"/vae_c/stage1_epoch_*)

$wan cache --recipe tiny --dataset_base_path "$out/data" --draws 3 --feature_merge_checkpoint "$stage1" --output_path "$out/cache"
$wan train-dit --recipe tiny --cache_path "$out/cache" --max_steps 900 --output_path "$out/dit"

$wan convert "$stage1" --to stage1 --dtype float16 --output_path src/wan_alpha/assets/tiny/stage1.safetensors
$wan convert "$(newest "$out"/dit/epoch-*)" --to adapter --rank 28 --dtype float16 \
  --output_path src/wan_alpha/assets/tiny/adapter.safetensors # rank 28 of 32: all assets fit in 16 MiB
