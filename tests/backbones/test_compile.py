"""torch.compile and torch.export of the backbone: one graph for many input sizes."""

import pytest
import torch
from small_swin_v2 import small_model
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from swin_dense import SwinTransformer
from swin_dense.ops import dispatch

SMALL = {"embed_dims": 8, "depths": (2, 1), "num_heads": (2, 2), "strides": (4, 2),
         "out_indices": (0, 1), "window_size": 3}  # fmt: skip
# More than one window in the last stage; multiples of all strides, and other sizes.
SIZES = [(48, 64), (64, 33), (50, 96), (71, 45)]


class Graphs:
    """A compiler backend that counts graphs and runs them without compiling."""

    def __init__(self):
        torch._dynamo.reset()
        self.count = 0

    def __call__(self, graph, _):
        self.count += 1
        return graph.forward


def model(**kwargs):
    backbone = SwinTransformer(**SMALL, **kwargs)
    backbone.init_weights()
    return backbone


def results(function, backbone, x):
    """Feature maps, and gradients of all parameters."""
    maps = function(x)
    loss = sum((m * m.detach().cos()).sum() for m in maps)
    return [*maps, *torch.autograd.grad(loss, list(backbone.parameters()))]


def assert_equal(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        # Both are fp32: rounding of a few hundred operations in another order.
        tolerance = 1e-5 * max(1.0, b.detach().abs().max().item())
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# On a CPU the compiler sees the same code for 'auto' and 'reference'.
@pytest.mark.parametrize("impl", ["sdpa", "auto"])
def test_one_graph_for_all_sizes(impl):
    backbone = model(attn_impl=impl, drop_path_rate=0.0)
    compiled = torch.compile(backbone, backend=(graphs := Graphs()), fullgraph=True, dynamic=True)
    for size in SIZES:
        x = torch.randn(2, 3, *size)
        assert_equal(results(compiled, backbone, x), results(backbone, backbone, x))
        assert graphs.count == 1


def test_one_graph_of_swin_v2_for_all_sizes():
    backbone = small_model(window_size=(3, 4)).double()
    compiled = torch.compile(backbone, backend=(graphs := Graphs()), fullgraph=True, dynamic=True)
    for size in SIZES:
        # In float64, as gradients of cosines of short vectors make much of rounding.
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        ours, expected = (results(function, backbone, x) for function in (compiled, backbone))
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * max(1.0, b.abs().max().item()))
        assert graphs.count == 1


def test_two_graphs_with_automatic_dynamic_shapes():
    """The first input compiles a graph for its size, the second one a dynamic graph for all sizes.

    ``cuda_graphs`` has no effect under torch.compile.
    """
    backbone = model(use_abs_pos_embed=True, pretrain_img_size=32, cuda_graphs=2).eval()
    compiled = torch.compile(backbone, backend=(graphs := Graphs()), fullgraph=True)
    counts = []
    with torch.no_grad():
        for size in SIZES:
            x = torch.randn(2, 3, *size)
            assert_equal(compiled(x), backbone(x))
            counts.append(graphs.count)
    assert counts == [1, 2, 2, 2]


def test_one_graph_with_drop_path_and_checkpointing():
    backbone = model(drop_path_rate=0.5, with_cp=True, global_attention=True)
    compiled = torch.compile(backbone, backend=(graphs := Graphs()), fullgraph=True, dynamic=True)
    for size in SIZES:
        sum(m.sum() for m in compiled(torch.randn(2, 3, *size))).backward()
    assert graphs.count == 1


@pytest.mark.parametrize("second_version", [False, True], ids=["V1", "V2"])
def test_export_with_dynamic_sizes(second_version):
    backbone = (small_model() if second_version else model()).eval()
    size = {0: Dim("batch", min=2), 2: Dim("height", min=25), 3: Dim("width", min=25)}
    with torch.no_grad():
        example = torch.randn(3, 3, *SIZES[0])
        program = torch.export.export(backbone, (example,), dynamic_shapes=(size,))
        exported = program.module()
        for height, width in SIZES:
            x = torch.randn(2, 3, height, width)
            assert_equal(exported(x), backbone(x))


def test_custom_functions_are_not_traced(monkeypatch):
    """Also after the compiler skips the backbone and traces the functions that it calls."""
    monkeypatch.setenv("SWIN_DENSE_ONEDNN", "1")
    monkeypatch.setattr(dispatch, "_SMALLEST", 0)
    dispatch._prefer_onednn.cache_clear()
    seen = set()

    def backend(graph, _):
        seen.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    backbone, x = model(drop_path_rate=0.0), torch.randn(1, 3, 48, 64)
    compiled = torch.compile(backbone, backend=backend)
    torch._dynamo.reset()
    try:
        with FlopCounterMode(display=False):  # a dispatch mode: nothing is compiled, then or later
            compiled(x)
        assert_equal(results(compiled, backbone, x), results(backbone, backbone, x))
    finally:
        dispatch._prefer_onednn.cache_clear()
    assert not any("mkldnn" in target for target in seen)
