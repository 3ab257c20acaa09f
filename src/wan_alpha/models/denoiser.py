"""The diffusion transformer's door: the one place where sigma becomes Wan's timestep."""

from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor


def predict_velocity(
    transformer: WanTransformer3DModel,
    latents: Float[Tensor, "B c t h w"],
    *,
    sigma: Float[Tensor, " B"],
    context: Float[Tensor, "B L D"],
) -> Float[Tensor, "B c t h w"]:
    """v^(x_sigma, sigma, text) in float32; latents normalised, timestep = 1000 sigma."""
    dtype = transformer.patch_embedding.weight.dtype
    out = transformer(
        hidden_states=latents.to(dtype),
        timestep=1000 * sigma,
        encoder_hidden_states=context.to(dtype),
        return_dict=False,
    )
    return out[0].float()
