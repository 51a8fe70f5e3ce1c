"""The choice of ``attn_impl='auto'`` on a GPU: right, kept, and unnoticed by the caller."""

import json
import logging

import pytest
import torch

from swin_dense import SwinTransformer
from swin_dense.ops import autotune

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SIZES = {"depths": (2, 2), "strides": (4, 2), "out_indices": (0, 1), "drop_path_rate": 0.0}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SWIN_DENSE_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SWIN_DENSE_AUTOTUNE", raising=False)
    autotune.forget()
    yield tmp_path / "autotune"
    autotune.forget()


def model(**options):
    torch.manual_seed(0)
    built = SwinTransformer(**{**SIZES, "num_heads": (3, 6), **options})
    for p in built.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return built.cuda()


def image(*shape):
    return torch.randn(*(shape or (2, 3, 150, 180)), device="cuda")


def step(net, x, dtype, training):
    """Feature maps, and in training the gradients."""
    net.train(training).zero_grad()
    with torch.set_grad_enabled(training), torch.autocast("cuda", dtype, dtype != torch.float32):
        outs = net(x)
    if not training:
        return list(outs)
    sum(out.float().square().mean() for out in outs).backward()
    return [*(out.detach() for out in outs), *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [7, 12])
def test_every_candidate_is_right_and_the_winner_computes(window, dtype, training, folder, caplog):
    ours, plain = model(window_size=window), model(window_size=window, attn_impl="reference")
    x = image()
    found, expected = (step(net, x, dtype, training) for net in (ours, plain))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    records = [json.loads(file.read_text()) for file in folder.iterdir()]
    assert len(records) == 6  # blocks of two stages, a merging, three norms
    assert all(not record["left_out"] for record in records)
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    for one, two in zip(found, expected, strict=True):
        assert (one - two).abs().max() <= tolerance * two.abs().max()


def test_file_serves_the_next_process(folder, monkeypatch):
    x = image()
    found = step(model(), x, torch.bfloat16, True)
    autotune.forget()

    def measure(race, _):
        raise AssertionError(race.what)

    monkeypatch.setattr(autotune, "measure", measure)
    for one, two in zip(step(model(), x, torch.bfloat16, True), found, strict=True):
        torch.testing.assert_close(one, two, rtol=0.1, atol=1e-2)  # atomic sums


def test_random_numbers_and_memory_are_as_before():
    net, x = model(drop_path_rate=0.5), image()
    cpu, gpu = torch.get_rng_state(), torch.cuda.get_rng_state()
    first = step(net.eval(), x, torch.bfloat16, False)
    assert torch.equal(torch.get_rng_state(), cpu)
    assert torch.equal(torch.cuda.get_rng_state(), gpu)
    del first
    autotune.forget()
    other = model()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    step(other.eval(), x, torch.bfloat16, False)
    torch.cuda.synchronize()
    # The masks of shifted windows may stay in their cache.
    assert torch.cuda.memory_allocated() - before < 2**20


def test_caller_may_use_another_stream():
    net, x = model().eval(), image()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = step(net, x, torch.bfloat16, False)
    torch.cuda.current_stream().wait_stream(stream)
    for one, two in zip(found, step(net, x, torch.bfloat16, False), strict=True):
        torch.testing.assert_close(one, two)


@torch.no_grad()
def test_unrecorded_pass_of_a_graph_measures(folder):
    ours, x = model(cuda_graphs=1).eval(), image()
    found = ours(x)
    assert len(list(folder.iterdir())) == 6
    for one, two in zip(found, model(attn_impl="reference").eval()(x), strict=True):
        assert (one - two).abs().max() <= 1e-3 * two.abs().max()


@torch.no_grad()
def test_nothing_is_measured_while_a_graph_is_recorded(folder):
    ours, x = model(attn_impl="sdpa").eval(), image()
    auto = model().eval()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = ours(x)  # the same operators as the fixed choice: loads its kernels
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = auto(x)
    graph.replay()
    assert not folder.exists()
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_lack_of_memory_leaves_the_training_step_alone(folder):
    """Little is free: what does not fit is left out, and the step runs."""
    net, x = model().train(), image(1, 3, 800, 1344)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (used + 1.5 * 2**30) / total))
    try:
        assert all(x.isfinite().all() for x in step(net, x, torch.bfloat16, True))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
