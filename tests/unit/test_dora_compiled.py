"""DoRA under torch.compile."""

import shutil
import subprocess
import sys

import pytest

COMPILED = """
import torch
from diffusers import WanTransformer3DModel
from torch._dynamo.utils import counters
from wan_alpha.models.dora import inject_adapter
torch.manual_seed(0)
sizes = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=10, freq_dim=8, ffn_dim=32, num_layers=1)
base = WanTransformer3DModel(**sizes).requires_grad_(False)
base.enable_gradient_checkpointing()
model = inject_adapter(base, rank=2).train()
video = dict(hidden_states=torch.randn(2, 4, 3, 4, 4), timestep=torch.tensor([300.0, 700.0]), encoder_hidden_states=torch.randn(2, 5, 10))
part, inputs = {part}
wanted = [parameter for parameter in part.parameters() if parameter.requires_grad]
for parameter in wanted:
    torch.nn.init.normal_(parameter)
compiled = torch.compile(part, backend="{backend}", fullgraph=True)
optimiser = torch.optim.SGD(wanted, lr=1e-3)
for step in range(2):
    found, expected = ([*torch.autograd.grad(f(**inputs)[0].square().sum(), wanted)] for f in (compiled, part))
    assert len(found) == {tensors}
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    for parameter, gradient in zip(wanted, found, strict=True):
        parameter.grad = 0.01 * gradient / gradient.norm()
    optimiser.step()
assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
print("equal")
"""


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor writes C++ for a CPU, and no g++ is here")


LAYER = "model.blocks[0].attn1.to_out[0], dict(x=torch.randn(2, 6, 24))"


@pytest.mark.parametrize(
    ("backend", "part", "tensors"),
    [
        pytest.param("aot_eager", "model, video", "30", id="transformer"),
        pytest.param("inductor", LAYER, "3", marks=needs_compiler, id="layer in C++"),
    ],
)
def test_what_is_compiled_is_one_graph_with_the_same_gradients(backend: str, part: str, tensors: str) -> None:
    """A checkpointed transformer, and one layer in generated C++; over two optimiser steps. In a process of its own: torch.compile
    cannot trace the checks of annotations that this one adds to every function."""
    script = COMPILED.replace("{backend}", backend).replace("{part}", part).replace("{tensors}", tensors)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr
