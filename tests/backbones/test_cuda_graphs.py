"""When CUDA graphs are recorded, replayed and dropped, tested with a fake graph on the CPU."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from swin_dense import SwinTransformer
from swin_dense.backbones import cuda_graphs
from swin_dense.errors import UserError
from swin_dense.ops.window_attention import windows

SMALL = {"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 3,
         "strides": (4, 2), "out_indices": (0, 1)}  # fmt: skip


class FakeGraph:
    """Counts recordings and replays; a replay runs the recorded function."""

    recorded: list[tuple[int, ...]]
    replayed: list[tuple[int, ...]]
    waited = 0

    def __init__(self, forward, x, other=None):
        type(self).recorded.append(tuple(x.shape))
        self.other = other
        self.forward = forward
        with torch.no_grad():
            forward(x)

    def replay(self, x):
        type(self).replayed.append(tuple(x.shape))
        return self.forward(x)

    def wait(self):
        type(self).waited += 1


@pytest.fixture
def graphs(monkeypatch):
    """Uses :class:`FakeGraph`, and treats the CPU as a GPU."""
    FakeGraph.recorded, FakeGraph.replayed = [], []
    monkeypatch.setattr(cuda_graphs, "_Graph", FakeGraph)
    monkeypatch.setattr(cuda_graphs, "_is_on_gpu", lambda x: True)
    return FakeGraph


def images(*sides):
    return [torch.randn(1, 3, side, side) for side in sides]


@pytest.mark.parametrize("bad", [-1, 2.0, "2", None, True])
def test_invalid_argument_raises(bad):
    with pytest.raises(ValueError, match=r"cuda_graphs must be a number of input shapes.*got"):
        SwinTransformer(**SMALL, cuda_graphs=bad)


def test_least_recently_used_graph_is_dropped(graphs):
    model = SwinTransformer(**SMALL, cuda_graphs=2).eval()
    a, b, c = images(16, 20, 24)
    with torch.no_grad():
        for x in (a, b, a, c, a, b):  # c evicts b, then b evicts c
            for ours, expected in zip(
                model(x), SwinTransformer.forward.__wrapped__(model, x), strict=True
            ):
                assert torch.equal(ours, expected)
            assert len(model.cuda_graphs) <= 2
    assert [shape[-1] for shape in graphs.recorded] == [16, 20, 24, 20]
    assert [shape[-1] for shape in graphs.replayed] == [16, 20, 16, 24, 16, 20]


def test_dropping_a_graph_waits_for_it(graphs):
    model = SwinTransformer(**SMALL, cuda_graphs=1).eval()
    before = graphs.waited
    with torch.no_grad():
        for x in images(16, 20):
            model(x)
    assert graphs.waited == before + 1
    model.cuda_graphs.clear()
    assert graphs.waited == before + 2
    assert len(model.cuda_graphs) == 0


@pytest.fixture
def autocast():
    """Sets the state of autocast, as torch.autocast has no effect without a GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")

    def enter(enabled, dtype):
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)

    yield enter
    enter(*before)


def test_one_graph_per_autocast_precision(graphs, autocast):
    model = SwinTransformer(**SMALL, cuda_graphs=4).eval()
    (x,) = images(16)
    with torch.no_grad():
        for enabled, dtype in (
            (False, torch.float16), (True, torch.float16), (True, torch.bfloat16),
            (False, torch.float16),
        ):  # fmt: skip
            autocast(enabled, dtype)
            model(x)
    assert len(graphs.recorded) == 3


def test_graphs_share_a_memory_pool(graphs):
    model = SwinTransformer(**SMALL, cuda_graphs=2).eval()
    with torch.no_grad():
        for x in images(16, 20, 24):
            model(x)
    first, second = model.cuda_graphs._graphs.values()
    assert second.other is first


class PassThroughMode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_no_graph_in_training_with_gradients_hooks_or_tracing(graphs):
    model = SwinTransformer(**SMALL, cuda_graphs=2)
    (x,) = images(16)
    with torch.no_grad():
        model(x)  # in training mode
        model.eval().stages[0].train()
        model(x)  # one stage in training mode
        model.eval()
        with PassThroughMode():
            model(x)
        handle = model.stages[1].register_forward_hook(lambda *_: None)
        model(x)
        handle.remove()
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        model(x)
        handle.remove()
        model._is_replica = True
        model(x)
        del model._is_replica
        model(x[:0])
        torch.func.vmap(model)(x[None])
        torch.jit.trace(model, x, check_trace=False)
    model(x)
    assert graphs.recorded == []
    with torch.inference_mode():
        model(x)
    assert len(graphs.recorded) == 1


def test_forward_hooks_of_the_backbone_are_called(graphs):
    model = SwinTransformer(**SMALL, cuda_graphs=2).eval()
    called = []
    model.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        for x in images(16, 16):
            model(x)
    assert len(called) == 2
    assert len(graphs.recorded) == 1


def replace_by_assignment(model):
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


def replace_data(model):
    model.stages[0].blocks[0].attn["w_msa"].qkv.weight.data = torch.randn(24, 8)


def replace_submodule(model):
    model.stages[0].blocks[0].ffn.layers[0][1] = nn.ReLU().eval()


@pytest.mark.parametrize(
    "change",
    [replace_by_assignment, replace_data, replace_submodule, SwinTransformer.double],
)
def test_replaced_weights_drop_the_graphs(graphs, change):
    model = SwinTransformer(**SMALL, cuda_graphs=2).eval()
    (x,) = images(16)
    with torch.no_grad():
        model(x)
        change(model)
        x = x.to(model.norm0.weight.dtype)
        model(x)
        model(x)
    assert len(graphs.recorded) == 2
    assert len(model.cuda_graphs) == 1


def test_weights_changed_in_place_keep_the_graphs(graphs):
    model = SwinTransformer(**SMALL, cuda_graphs=2).eval()
    (x,) = images(16)
    with torch.no_grad():
        model(x)
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
        model(x)
    model.train()
    sum(m.sum() for m in model(x)).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    with torch.no_grad():
        model.eval()(x)
    assert len(graphs.recorded) == 1


def copies(model):
    yield copy.deepcopy(model)
    yield pickle.loads(pickle.dumps(model))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    yield torch.load(file, weights_only=False)


def test_copies_record_their_own_graphs(graphs):
    model = SwinTransformer(**SMALL, cuda_graphs=2).eval()
    (x,) = images(16)
    with torch.no_grad():
        expected = model(x)
        for i, other in enumerate(copies(model)):
            assert len(other.cuda_graphs) == 0
            assert all(torch.equal(a, b) for a, b in zip(other(x), expected, strict=True))
            assert len(graphs.recorded) == 2 + i
    assert not [key for key in model.state_dict() if "graph" in key]
    assert model.state_dict().keys() == SwinTransformer(**SMALL).state_dict().keys()


def test_out_of_memory_falls_back_to_eager(graphs, monkeypatch, caplog):
    class Failing(FakeGraph):
        def __init__(self, forward, x, other=None):
            super().__init__(forward, x, other)
            if x.shape[-1] == 20:
                try:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                except torch.OutOfMemoryError as error:
                    raise UserError("cannot be recorded") from error

    monkeypatch.setattr(cuda_graphs, "_Graph", Failing)
    model = SwinTransformer(**SMALL, cuda_graphs=3).eval()
    a, b = images(16, 20)
    with torch.no_grad():
        for x in (a, b, b, a, a):
            assert model(x)[0].shape[-1] == x.shape[-1] // 4
    # All graphs are dropped, and the shape that failed is not tried again.
    assert [shape[-1] for shape in graphs.recorded] == [16, 20, 16]
    assert [r.getMessage() for r in caplog.records] == [
        "no memory for a CUDA graph of input shape (1, 3, 20, 20): running without; "
        "use fewer cuda_graphs"
    ]


def test_other_errors_are_raised_and_leave_no_graph(graphs, monkeypatch):
    def fail(forward, x, other=None):
        raise UserError("the forward pass cannot be recorded")

    model = SwinTransformer(**SMALL, cuda_graphs=1).eval()
    (x,) = images(16)
    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(cuda_graphs, "_Graph", fail)
            with pytest.raises(UserError, match="cannot be recorded"):
                model(x)
        model(x)
    assert len(graphs.recorded) == 1


def test_thread_safety(graphs):
    model = SwinTransformer(**SMALL, cuda_graphs=1).eval()
    inputs = images(16, 20, 24, 16)
    with torch.no_grad():
        expected = [SwinTransformer.forward.__wrapped__(model, x) for x in inputs]
    results = {}

    def work(i):
        with torch.no_grad():
            for _ in range(5):
                results[i] = model(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, maps in enumerate(expected):
        for a, b in zip(results[i], maps, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_no_effect_on_cpu():
    torch.manual_seed(0)
    model = SwinTransformer(**SMALL, cuda_graphs=2).eval()
    torch.manual_seed(0)
    plain = SwinTransformer(**SMALL).eval()
    (x,) = images(18)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(model(x), plain(x), strict=True))
    assert len(model.cuda_graphs) == 0


def test_masks_are_stored_for_a_graph():
    """Masks in the cache may be evicted, and their memory reused."""
    spec = windows.WindowSpec(2, 3, 1, 1.0)
    call = (5, 6, spec, torch.device("cpu"), torch.float32)
    masks = {}
    cached = windows.shift_mask(*call)
    with windows.mask_store(masks):
        kept = windows.shift_mask(*call)
        assert windows.shift_mask(*call) is kept
    assert list(masks) == [(6, 6, 3, 1, torch.device("cpu"), torch.float32)]
    assert torch.equal(kept, cached)
    assert kept.data_ptr() != cached.data_ptr()
    assert windows.shift_mask(*call) is cached
