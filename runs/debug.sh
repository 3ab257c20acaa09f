#!/usr/bin/env bash
# The whole road on a folder of your own RGBA clips, small and quick: does every stage work on this data?
#
#   command    runs/debug.sh DIR [OUTPUT]     (OUTPUT: default outputs/debug)
#   hardware   two CPU cores, no GPU
#   time       minutes; VAE_STEPS, DIT_STEPS, PROCEDURAL (extra procedural clips) and HEIGHT/WIDTH/FRAMES change it
#
# DIR holds RGBA clips or colour + matte pairs. With a manifest.json that names splits, the train split is trained on and the
# validation split evaluated; else the same clips serve for both.
set -euo pipefail
source_dir=${1:?usage: runs/debug.sh DIR [OUTPUT]}
out=${2:-outputs/debug}
wan=${WAN_ALPHA:-wan-alpha}
vae_steps=${VAE_STEPS:-60} dit_steps=${DIT_STEPS:-60} procedural=${PROCEDURAL:-0}
size=(--height "${HEIGHT:-64}" --width "${WIDTH:-64}" --num_frames "${FRAMES:-17}")
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}

train_split=() validation_split=()
if [ -f "$source_dir/manifest.json" ] && grep -q '"split"' "$source_dir/manifest.json"; then
  train_split=(--split train) validation_split=(--split validation)
fi
newest() { ls -t "$@" | head -n 1; }

trap 'exit 130' INT TERM # a training that is stopped saves and ends well; the script must not go on with it
rm -rf "$out"/{data,held_out,vae,cache,dit,generated,exported,evaluation}
$wan prepare "$source_dir" "${train_split[@]}" --synthetic "$procedural" "${size[@]}" --output_path "$out/data"
$wan prepare "$source_dir" "${validation_split[@]}" --output_path "$out/held_out"
$wan train-vae --recipe tiny --dataset_base_path "$out/data" --max_steps "$vae_steps" "${size[@]}" --output_path "$out/vae"
stage1=$(newest "$out"/vae/stage1_epoch_*.safetensors)
$wan cache --recipe tiny --dataset_base_path "$out/data" --feature_merge_checkpoint "$stage1" "${size[@]}" --output_path "$out/cache"
$wan train-dit --recipe tiny --cache_path "$out/cache" --max_steps "$dit_steps" "${size[@]}" --output_path "$out/dit"
adapter=$(newest "$out"/dit/epoch-*.safetensors)
prompt=$(python3 -c 'import csv, sys; print(next(csv.DictReader(open(sys.argv[1])))["prompt"])' "$out/data/metadata.csv")
$wan generate --recipe tiny --vae_lora_path "$stage1" --adapter_path "$adapter" "${size[@]}" --output_path "$out/generated" --prompt "$prompt"
$wan export "$out/generated" --output_path "$out/exported"
$wan evaluate --recipe tiny --dataset_base_path "$out/held_out" --feature_merge_checkpoint "$stage1" "${size[@]}" --output_path "$out/evaluation"
echo "everything is in $out; look at $out/evaluation/evaluation_sheet.png and $out/generated/*_preview.png"
