"""A whole backbone with ``attn_impl='triton'``: in Triton's interpreter, and on GPUs."""

import threading
from pathlib import Path

import pytest
import torch

from swin_dense import SwinTransformer
from swin_dense.ops import triton_support

HERE = Path(__file__).parent
GPUS = torch.cuda.device_count()


@pytest.mark.skipif(triton_support.unavailable_reason() is not None, reason="triton not installed")
def test_backbone_in_the_interpreter(interpreted):
    """See triton_backbone_interpreted.py for what is tested."""
    interpreted(HERE / "triton_backbone_interpreted.py")


def without_gpu() -> bool:
    if triton_support.unavailable_reason() is not None or not GPUS:
        return True
    return triton_support.unsupported_device_reason(torch.device("cuda", 0)) is not None


def gradients(model, device):
    """Of a loss that weights every output differently."""
    model = model.to(device)
    x = torch.randn(2, 3, 70, 90, generator=torch.Generator().manual_seed(1)).to(device)
    maps = model(x)
    loss = sum((m * torch.linspace(-1, 1, m.numel(), device=device).view_as(m)).sum() for m in maps)
    return [*maps, *torch.autograd.grad(loss, list(model.parameters()))]


def build(seed):
    torch.manual_seed(seed)
    model = SwinTransformer(
        embed_dims=32, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1),
        drop_path_rate=0.0, attn_impl="triton",
    )  # fmt: skip
    model.init_weights()
    return model


@pytest.mark.skipif(without_gpu(), reason="no GPU that the kernels are for")
def test_streams_and_threads_on_gpus():
    """Models in threads and streams of their own, on several GPUs if there are, at one time."""
    expected = [gradients(build(seed), "cuda:0") for seed in range(4)]
    torch.cuda.synchronize()
    found = {}

    def work(seed):
        device = torch.device("cuda", seed % GPUS)
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            for _ in range(3):
                found[seed] = gradients(models[seed], device)
            torch.cuda.current_stream().synchronize()

    models = [build(seed) for seed in range(4)]
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, tensors in enumerate(expected):
        for ours, theirs in zip(found[seed], tensors, strict=True):
            scale = theirs.abs().max().item()
            torch.testing.assert_close(ours.to("cuda:0"), theirs, rtol=0, atol=1e-4 * scale)


@pytest.mark.skipif(without_gpu() or GPUS < 2, reason="fewer than two GPUs")
def test_gpu_that_is_not_the_current_one():
    expected = gradients(build(0), "cuda:0")
    for ours, theirs in zip(gradients(build(0), "cuda:1"), expected, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours.to("cuda:0"), theirs, rtol=0, atol=1e-4 * scale)
