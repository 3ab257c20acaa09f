#!/usr/bin/env bash
# The demo: every stage on the tiny base, with real training of both stages. Called by `make demo`.
#
#   command    make demo                      (or: runs/demo.sh [OUTPUT])
#   hardware   two CPU cores, 4 GiB memory, no GPU
#   time       six minutes (AVX512-BF16) to thirteen (AVX2), install included; everything stays in OUTPUT (default outputs/demo)
#
# Stage 1 goes on from the Stage-1 checkpoint that ships with the package, because minutes are too few to learn it from nothing.
# Stage 2 starts from the plain RGB base, which knows nothing of transparency.
set -euo pipefail
out=${1:-outputs/demo}
wan=${WAN_ALPHA:-wan-alpha}
vae_steps=${VAE_STEPS:-40} dit_steps=${DIT_STEPS:-1000} clips=${CLIPS:-128}
# glibc returns large freed blocks to the system at once; keeping them makes a CPU training step up to 1.6 times faster.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}

trap 'exit 130' INT TERM # a training that is stopped saves and ends well; the script must not go on with it
rm -rf "$out"/{data,held_out,vae,cache,dit,generated,exported,evaluation}
say() { printf '\n== %s\n' "$*"; }
newest() { ls -t "$@" | head -n 1; }

say "1 prepare: $clips procedural clips with exact alpha, and 16 held out"
$wan prepare --recipe tiny --synthetic "$clips" --output_path "$out/data"
$wan prepare --recipe tiny --synthetic 16 --seed 1000000 --output_path "$out/held_out"

say "2 train-vae: Stage 1, $vae_steps steps on from the checkpoint that ships with the package (made by this recipe in a longer run)"
$wan train-vae --recipe tiny --dataset_base_path "$out/data" --max_steps "$vae_steps" --output_path "$out/vae"
stage1=$(newest "$out"/vae/stage1_epoch_*.safetensors)

say "3 cache: latents and text"
$wan cache --recipe tiny --dataset_base_path "$out/data" --feature_merge_checkpoint "$stage1" --output_path "$out/cache"

say "4 train-dit: Stage 2, $dit_steps steps of DoRA from the plain base"
$wan train-dit --recipe tiny --cache_path "$out/cache" --max_steps "$dit_steps" --output_path "$out/dit"
adapter=$(newest "$out"/dit/epoch-*.safetensors)

say "5 generate: four prompts"
$wan generate --recipe tiny --vae_lora_path "$stage1" --adapter_path "$adapter" --output_path "$out/generated" --prompt \
  "A red star moving right. The background is transparent. Flat style. Close shot." \
  "A cyan ring spinning. The background is transparent. Flat style. Close shot." \
  "A magenta square standing still. The background is transparent. Flat style. Close shot." \
  "A green triangle moving up. The background is transparent. Flat style. Close shot."

say "6 export: PNG, WebP, checkerboard preview, colour and matte"
$wan export "$out/generated" --output_path "$out/exported"

say "7 evaluate: reconstruction of the held-out clips"
$wan evaluate --recipe tiny --dataset_base_path "$out/held_out" --feature_merge_checkpoint "$stage1" --output_path "$out/evaluation"

say "done"
echo "transparent clips:  $out/exported   (open a .webp in a browser)"
echo "previews:           $(ls "$out"/generated/*_preview.png | tr '\n' ' ')"
