#!/usr/bin/env bash
# From a folder of RGBA clips to an adapter for Wan2.1-T2V-14B and a first transparent clip.
#
# command:   runs/wan_14b.sh SOURCE [OUTPUT] [PROMPT]
# hardware:  one CUDA GPU with bfloat16 that holds a 28 GB base beside its activations; the authors use 8 GPUs
# hours:     not measured: neither the weights nor such hardware were available
# expected:  as published for their data: 41.47 dB colour and 42.22 dB alpha (VAE)
# FEW_STEP_LORA: LightX2V's LoRA for 4 steps without guidance; without it 50 steps are taken.
# Steps, sizes and rates: src/wan_alpha/recipes/wan_14b.py. A killed training goes on with: --resume latest
set -euo pipefail

source=${1:?usage: runs/wan_14b.sh SOURCE [OUTPUT] [PROMPT]}
out=${2:-outputs/wan_14b}
prompt=${3:-A white fox on a transparent background, realistic style, medium shot.}

sampling=(--num_inference_steps 50)
[[ -z ${FEW_STEP_LORA:-} ]] || sampling=(--acceleration_lora "$FEW_STEP_LORA")

latest() { # FOLDER PATTERN: the file with the highest number
    find "$1" -maxdepth 1 -name "$2" | sort -V | tail -n 1 | grep . || { echo "error: no $2 in $1" >&2 && return 1; }
}

wan-alpha doctor "$source" --recipe wan_14b --output_path "$out/doctor" # stops here when a clip cannot be used as it is
wan-alpha prepare "$source" --recipe wan_14b --output_path "$out/data"
wan-alpha train-vae --recipe wan_14b --dataset_base_path "$out/data" --output_path "$out/vae"

stage1=$(latest "$out/vae" 'stage1*.safetensors')
vae=(--vae_lora_path "$stage1" --feature_merge_checkpoint "$stage1")
wan-alpha evaluate --recipe wan_14b --dataset_base_path "$out/data" "${vae[@]}" --output_path "$out/evaluation"
wan-alpha cache --recipe wan_14b --dataset_base_path "$out/data" "${vae[@]}" --output_path "$out/cache"
wan-alpha train-dit --recipe wan_14b --dataset_base_path "$out/data" "${vae[@]}" --cache_path "$out/cache" --output_path "$out/dit" \
    --gradient_accumulation_steps 8

adapter=$(latest "$out/dit" 'epoch-*.safetensors')
wan-alpha generate "$prompt" --recipe wan_14b "${vae[@]}" --adapter_path "$adapter" "${sampling[@]}" --output_path "$out/generated"
wan-alpha export "$out/generated" --recipe wan_14b --output_path "$out/exported"
