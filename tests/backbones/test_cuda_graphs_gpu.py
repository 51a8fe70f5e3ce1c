"""CUDA graphs recorded and replayed on a GPU, against eager forward passes."""

import copy
import threading

import pytest
import torch
from torch import nn

from swin_dense import SwinTransformer
from swin_dense.errors import UserError
from swin_dense.ops import triton_support
from swin_dense.ops.window_attention import windows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def without_triton() -> bool:
    if triton_support.unavailable_reason() is not None or not torch.cuda.is_available():
        return True
    return triton_support.unsupported_device_reason(torch.device("cuda", 0)) is not None


TRITON = pytest.param(
    "triton", marks=pytest.mark.skipif(without_triton(), reason="no GPU that the kernels are for")
)
SMALL = {"embed_dims": 64, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)}
SIZES = [(64, 96), (224, 224), (130, 61)]


def models(**kwargs):
    """A model with CUDA graphs, and one without, with the same weights."""
    ours = SwinTransformer(**SMALL, cuda_graphs=2, **kwargs).cuda().eval()
    ours.init_weights()
    plain = SwinTransformer(**SMALL, **kwargs).cuda().eval()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def image(size, batch=2):
    return torch.randn(batch, 3, *size, device="cuda")


def assert_same(ours, expected):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        # The same kernels, unless a library chooses different ones on another stream.
        scale = b.float().abs().max()
        tolerance = 1e-5 if b.dtype == torch.float32 else 2e-2
        assert (a.float() - b.float()).abs().max() <= tolerance * scale


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("impl", ["reference", "sdpa", "auto", TRITON])
def test_replay_equals_eager(impl, dtype, mode):
    ours, plain = models(attn_impl=impl)
    with mode(), torch.autocast("cuda", dtype, enabled=dtype is not None):
        for size in SIZES * 2:  # the third evicts the first
            for _ in range(2):
                x = image(size)
                assert_same(ours(x), plain(x))
            assert len(ours.cuda_graphs) <= 2
    assert len(ours.cuda_graphs) == 2


def test_no_grad_and_inference_mode_share_graphs():
    ours, plain = models()
    for first, second in ((torch.no_grad, torch.inference_mode),) * 2:
        ours.cuda_graphs.clear()
        for mode in (first, second, first):
            with mode():
                x = image(SIZES[0])
                maps = ours(x)
                assert_same(maps, plain(x))
                assert maps[0].is_inference() == (mode is torch.inference_mode)
    with torch.inference_mode():
        x = image(SIZES[0])
    with torch.no_grad():
        assert_same(ours(x), plain(x))


@torch.no_grad()
def test_feature_maps_survive_the_next_call():
    ours, plain = models()
    inputs = [image(SIZES[0]) for _ in range(3)]
    maps = [ours(x) for x in inputs]
    for found, x in zip(maps, inputs, strict=True):
        assert_same(found, plain(x))


@torch.no_grad()
def test_graphs_replay_in_any_order():
    ours, plain = models()
    inputs = [image(size) for size in SIZES[:2]]
    for i in (0, 1, 1, 0, 0, 1, 0):
        assert_same(ours(inputs[i]), plain(inputs[i]))


@torch.no_grad()
def test_replay_uses_weights_changed_in_place():
    ours, plain = models()
    x = image(SIZES[0])
    ours(x)
    graph = next(iter(ours.cuda_graphs._graphs.values()))
    other, _ = models()
    for model in (ours, plain):
        model.load_state_dict(other.state_dict())
    assert_same(ours(x), plain(x))
    with torch.autocast("cuda", torch.bfloat16):
        assert_same(ours(x), plain(x))
        for model in (ours, plain):
            model.norm0.weight.mul_(2)
            model.stages[0].blocks[0].ffn.layers[1].weight.mul_(3)
        assert_same(ours(x), plain(x))
    assert graph in ours.cuda_graphs._graphs.values()


@torch.no_grad()
def test_moved_or_replaced_weights_are_used():
    ours, plain = models()
    x = image(SIZES[0])
    ours(x)
    changed = {k: v * 2 if v.is_floating_point() else v for k, v in ours.state_dict().items()}
    for model in (ours, plain):
        model.load_state_dict(copy.deepcopy(changed), assign=True)
    assert_same(ours(x), plain(x))
    for model in (ours, plain):
        model.cpu().cuda()
    assert_same(ours(x), plain(x))
    ours.half()
    plain.half()
    assert_same(ours(x.half()), plain(x.half()))


@torch.no_grad()
def test_copies_have_their_own_graphs():
    ours, plain = models()
    x = image(SIZES[0])
    ours(x)
    other = copy.deepcopy(ours)
    assert len(other.cuda_graphs) == 0
    ours.norm0.weight.zero_()
    assert_same(other(x), plain(x))


@torch.no_grad()
def test_replay_after_the_mask_cache_is_cleared():
    ours, plain = models(attn_impl="reference")
    x = image((230, 230))
    ours(x)
    windows._cached_mask.cache_clear()
    junk = [torch.full((32, 49, 49), float("nan"), device="cuda") for _ in range(64)]
    assert_same(ours(x), plain(x))
    del junk


@pytest.mark.parametrize("impl", ["auto", TRITON])
def test_training_between_inferences(impl):
    ours, plain = models(attn_impl=impl)
    optimizer = torch.optim.SGD(ours.parameters(), 1e-2)
    x = image(SIZES[0])
    for _ in range(2):
        with torch.no_grad():
            assert_same(ours.eval()(x), plain(x))
        sum((m * m.detach().cos()).sum() for m in ours.train()(x)).backward()
        optimizer.step()
        plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert_same(ours.eval()(x), plain(x))
    assert len(ours.cuda_graphs) == 1


@pytest.mark.parametrize("impl", ["auto", TRITON])
@torch.no_grad()
def test_stream_and_thread_safety(impl):
    ours, plain = models(attn_impl=impl)
    inputs = [image(SIZES[i % 3]) for i in range(6)]
    expected = [plain(x) for x in inputs]
    torch.cuda.synchronize()
    found = {}

    def work(i):
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(3):
                found[i] = ours(inputs[i])
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, maps in enumerate(expected):
        assert_same(found[i], maps)


@torch.no_grad()
def test_out_of_memory_falls_back_to_eager(monkeypatch):
    ours, plain = models()
    x = image(SIZES[0])
    recorded = torch.cuda.graph

    class Full(recorded):
        def __enter__(self):
            super().__enter__()
            ours.norm0.forward = raise_out_of_memory

        def __exit__(self, *args):
            del ours.norm0.forward
            return super().__exit__(*args)

    def raise_out_of_memory(_):
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(torch.cuda, "graph", Full)
    assert_same(ours(x), plain(x))
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    y = image(SIZES[1])
    assert_same(ours(y), plain(y))
    assert_same(ours(x), plain(x))
    assert [graph is None for graph in ours.cuda_graphs._graphs.values()] == [False, True]


def test_forward_that_cannot_be_recorded_raises():
    """In a separate process: PyTorch 2.11 keeps the memory of a failed recording reserved."""
    from multiprocessing import get_context

    with get_context("spawn").Pool(1) as pool:
        message = pool.apply(_record_a_synchronization)
    assert message.startswith("the forward pass cannot be recorded as a CUDA graph (")
    assert message.endswith("set cuda_graphs=0")


class _Synchronizing(nn.Module):
    def forward(self, x):
        return x * x.sum().item()


def _record_a_synchronization():
    ours, _ = models()
    ours.stages[0].blocks[0].ffn.layers[0][1] = _Synchronizing().eval()
    stream = torch.cuda.current_stream()
    with torch.no_grad():
        try:
            ours(image(SIZES[0]))
        except UserError as error:
            assert torch.cuda.current_stream() == stream
            return str(error)
    return "no error"
