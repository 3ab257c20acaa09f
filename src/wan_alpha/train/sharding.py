"""The frozen base in shares, one per process, by FSDP2: a block's weights are gathered when it is their turn, and let go after it.

Only frozen weights are shared out. The adapter stays whole in every process, so that its gradients, optimiser, average, states and
files are those of any run: nothing has to be gathered before a file is written, and a run may go on without FSDP2.
"""

import logging
import warnings

from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers import WanTransformer3DModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from wan_alpha.errors import UsageError

log = logging.getLogger(__name__)

CONFIG = "runs/fsdp2.yaml"


def share_out(base: WanTransformer3DModel | None, *, accelerator: Accelerator) -> bool:
    """Share the base out, in place, when the launcher's configuration asks for FSDP2; returns whether it did.

    Raises UsageError for what cannot be shared out: no base, a quantised one, the first FSDP.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise UsageError("fsdp_version", got=plugin.fsdp_version, expected="2", do=f"accelerate launch --config_file {CONFIG}")
    if base is None:
        do = "launch without FSDP: this stage has no large frozen base"
        raise UsageError("accelerate's configuration", got="FSDP", expected="plain data parallelism", do=do)
    quantised = [name for name, weight in base.named_parameters() if not weight.requires_grad and not weight.is_floating_point()]
    if quantised or any(hasattr(weight, "__tensor_flatten__") for weight in base.parameters()):
        raise UsageError("FSDP2", got="a quantised base", expected="plain weights", do="--base_quantization none, or launch without FSDP")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    settings = {"mesh": mesh, "offload_policy": plugin.cpu_offload}
    ignored = {weight for weight in base.parameters() if weight.requires_grad}
    for block in base.blocks:
        fully_shard(block, reshard_after_forward=plugin.reshard_after_forward, ignored_params=ignored, **settings)
    fully_shard(base, ignored_params=ignored, **settings)
    warnings.filterwarnings("ignore", message=".*returned a view tensor")  # a danger to those who write into it; no loss here does
    log.info("FSDP2: the frozen base is shared by %d processes", accelerator.num_processes)
    return True
