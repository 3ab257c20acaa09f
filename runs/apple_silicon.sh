#!/usr/bin/env bash
# The seed document's road on a Mac: published decoders frozen, merge block trained, then DoRA on Wan2.1-T2V-1.3B at 272 x 272 x 17.
#
# command:   runs/apple_silicon.sh SOURCE [OUTPUT] [PROMPT]
# hardware:  Apple M-series (mps); DECODERS: the published decoder LoRA, Wan-Alpha/vae/decoder.bin
# hours:     not measured: no such hardware was available; the seed states 2 to 3 hours for Stage 1 on an M3 Max
# expected:  evaluate: the seed's scale, colour error below 20 good and below 10 excellent, alpha error below 15 and 5
# Steps, sizes and rates: src/wan_alpha/recipes/apple_silicon.py. A killed training goes on with: --resume latest
set -euo pipefail

source=${1:?usage: runs/apple_silicon.sh SOURCE [OUTPUT] [PROMPT]}
out=${2:-outputs/apple_silicon}
prompt=${3:-A white fox on a transparent background, realistic style, medium shot.}
decoders=${DECODERS:-Wan-Alpha/vae/decoder.bin}

latest() { # FOLDER PATTERN: the file with the highest number
    find "$1" -maxdepth 1 -name "$2" | sort -V | tail -n 1 | grep . || { echo "error: no $2 in $1" >&2 && return 1; }
}

wan-alpha doctor "$source" --recipe apple_silicon --output_path "$out/doctor" # stops here when a clip cannot be used as it is
wan-alpha prepare "$source" --recipe apple_silicon --output_path "$out/data"
wan-alpha train-vae --recipe apple_silicon --dataset_base_path "$out/data" --vae_lora_path "$decoders" --output_path "$out/vae"

merge=$(latest "$out/vae" 'feature_merge_epoch_*.safetensors')
vae=(--vae_lora_path "$decoders" --feature_merge_checkpoint "$merge")
wan-alpha evaluate --recipe apple_silicon --dataset_base_path "$out/data" "${vae[@]}" --output_path "$out/evaluation"
wan-alpha cache --recipe apple_silicon --dataset_base_path "$out/data" "${vae[@]}" --output_path "$out/cache"
wan-alpha train-dit --recipe apple_silicon --dataset_base_path "$out/data" "${vae[@]}" --cache_path "$out/cache" --output_path "$out/dit"

adapter=$(latest "$out/dit" 'epoch-*.safetensors')
wan-alpha generate "$prompt" --recipe apple_silicon "${vae[@]}" --adapter_path "$adapter" --output_path "$out/generated"
wan-alpha export "$out/generated" --recipe apple_silicon --output_path "$out/exported"
