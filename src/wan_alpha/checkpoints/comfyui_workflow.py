"""A text-to-video workflow for stock ComfyUI in its API format: node -> class and inputs; a link is [node, output index].

Node classes and inputs are those of ComfyUI's core (its template video_wan2.1_alpha_t2v_14B uses the same). ComfyUI's masks are 1
where nothing is, so the matte is inverted before JoinImageWithAlpha inverts it back.
"""

from dataclasses import dataclass

from wan_alpha.checkpoints.folders import COMFYUI_LORA, COMFYUI_VAES

PROMPT = "The background of this video is transparent. A gray squirrel holding a chestnut. Realistic style. Medium shot."
TRANSFORMERS = {1536: "wan2.1_t2v_1.3B_fp16.safetensors", 5120: "wan2.1_t2v_14B_fp16.safetensors"}
"""ComfyUI's names of the Wan2.1 transformers, by width."""

Workflow = dict[str, dict[str, object]]


@dataclass(frozen=True, kw_only=True)
class WorkflowSettings:
    """`transformer` and the LoRAs are names in ComfyUI's models/diffusion_models and models/loras; without an acceleration LoRA it
    takes 50 steps with guidance 5 in place of 4 without guidance."""

    transformer: str = TRANSFORMERS[5120]
    adapter: str = COMFYUI_LORA.name
    acceleration_lora: str | None = None
    width: int = 832
    height: int = 480
    num_frames: int = 81
    fps: float = 16.0
    sigma_shift: float = 5.0


def workflow(settings: WorkflowSettings) -> Workflow:
    """Adapter first, acceleration LoRA second; one latent, two VAEs, an animated WebP with alpha."""
    fast = settings.acceleration_lora is not None
    nodes: Workflow = {
        "unet": _node("UNETLoader", unet_name=settings.transformer, weight_dtype="default"),
        "adapter": _node("LoraLoaderModelOnly", model=["unet", 0], lora_name=settings.adapter, strength_model=1.0),
        "clip": _node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan", device="default"),
        "positive": _node("CLIPTextEncode", clip=["clip", 0], text=PROMPT),
        "negative": _node("CLIPTextEncode", clip=["clip", 0], text=""),
        "latent": _node("EmptyHunyuanLatentVideo", width=settings.width, height=settings.height, length=settings.num_frames, batch_size=1),
        "shift": _node("ModelSamplingSD3", model=["acceleration" if fast else "adapter", 0], shift=settings.sigma_shift),
        "sample": _node(
            "KSampler",
            model=["shift", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=0,
            steps=4 if fast else 50,
            cfg=1.0 if fast else 5.0,
            sampler_name="uni_pc",
            scheduler="simple",
            denoise=1.0,
        ),
        "rgb_vae": _node("VAELoader", vae_name=COMFYUI_VAES["rgb"].name),
        "alpha_vae": _node("VAELoader", vae_name=COMFYUI_VAES["alpha"].name),
        "rgb": _node("VAEDecode", samples=["sample", 0], vae=["rgb_vae", 0]),
        "alpha": _node("VAEDecode", samples=["sample", 0], vae=["alpha_vae", 0]),
        "matte": _node("ImageToMask", image=["alpha", 0], channel="red"),
        "inverted": _node("InvertMask", mask=["matte", 0]),
        "rgba": _node("JoinImageWithAlpha", image=["rgb", 0], alpha=["inverted", 0]),
        "save": _node(
            "SaveAnimatedWEBP",
            images=["rgba", 0],
            filename_prefix="wan_alpha",
            fps=settings.fps,
            lossless=True,
            quality=80,
            method="default",
        ),
    }
    if fast:
        nodes["acceleration"] = _node("LoraLoaderModelOnly", model=["adapter", 0], lora_name=settings.acceleration_lora, strength_model=1.0)
    return nodes


def _node(class_type: str, **inputs: object) -> dict[str, object]:
    return {"class_type": class_type, "inputs": inputs}
