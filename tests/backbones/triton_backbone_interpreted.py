"""A whole backbone with ``attn_impl='triton'`` in Triton's interpreter, on the CPU.

Run by ``test_triton_backbone.py`` in a separate process: Triton decides at import whether it
compiles or interprets. By hand: ``TRITON_INTERPRET=1 pytest`` and this file.
"""

import copy
import pickle

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.modules import module as global_hooks
from torch.nn.parallel import DistributedDataParallel

from swin_dense.backbones import SwinTransformer, SwinTransformerV2
from swin_dense.ops.window_attention.triton import launch

# Plain and shifted windows, with padding.
SMALL = {"depths": (2,), "num_heads": (1,), "strides": (4,), "out_indices": (0,)}
# And a stage that is smaller than a window.
TWO_STAGES = {"depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2), "out_indices": (0, 1)}
IMPLS = ("reference", "triton")


def build(impl, **options):
    options = SMALL | {"window_size": 5, "drop_path_rate": 0.0} | options
    torch.manual_seed(0)
    model = SwinTransformer(embed_dims=32, **options, attn_impl=impl)
    for name, parameter in model.named_parameters():
        scale = 1 if name.endswith(("bias_table", "qkv.bias")) else 0.1
        nn.init.normal_(parameter, std=scale)
    return model


def image(batch=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 20, 24, generator=generator)


def loss(maps):
    """Weights every output differently."""
    return sum((m * torch.linspace(-1, 1, m[0].numel()).view_as(m[0])).sum() for m in maps)


def training_step(model, x, create_graph=False):
    """Feature maps and gradients of the image and of all parameters that are trained, by name."""
    x = x.clone().requires_grad_()
    torch.manual_seed(5)  # of stochastic depth: drops branches, but none of both images
    maps = model(x)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss(maps), [x, *trained.values()], create_graph=create_graph)
    found = {f"map {i}": m for i, m in enumerate(maps)}
    return found | dict(zip(["image", *trained], gradients, strict=True))


def assert_close(ours, expected):
    """Both are fp32: rounding of a few hundred operations in another order."""
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        bound = 1e-4 * value.detach().abs().max().item()
        error = (ours[name] - value).detach().abs().max().item()
        assert error <= bound, f"{name}: {error:.2g}, allowed {bound:.2g}"


@pytest.fixture
def launches(monkeypatch):
    """Names of the attention launchers that are called."""
    called = []

    def watch(name):
        function = getattr(launch, name)
        monkeypatch.setattr(launch, name, lambda *a: called.append(name) or function(*a))

    watch("forward")
    watch("backward")
    return called


@pytest.mark.parametrize(
    ("options", "mode"),
    [(TWO_STAGES, True), (TWO_STAGES, False), ({"window_size": 9}, True)],
    ids=["train", "eval", "large windows"],
)
def test_equals_reference(options, mode, launches):
    """With stochastic depth, which drops the same branches."""
    models = (build(i, drop_path_rate=0.5, **options).train(mode) for i in IMPLS)
    expected, ours = (training_step(model, image(2)) for model in models)
    assert_close(ours, expected)
    assert any(value.any() for value in expected.values())
    blocks = sum(options.get("depths", SMALL["depths"]))
    assert launches == ["forward"] * blocks + ["backward"] * blocks


@pytest.mark.parametrize("window", [5, 17], ids=["kernels", "sdpa"])
def test_swin_v2_equals_reference(window, launches):
    """Its windows of more than 16 are PyTorch's."""
    found = []
    for impl in IMPLS:
        arch = {"embed_dims": 32, "depths": (2,), "num_heads": (1,)}
        model = SwinTransformerV2(arch, window_size=window, out_indices=(0,), attn_impl=impl)
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, std=1 if parameter.ndim == 1 else 0.1)
            if name.endswith("logit_scale"):
                nn.init.constant_(parameter, 2.0)
        found.append(training_step(model.eval(), image(2)))
    assert_close(found[1], found[0])
    assert launches == ["forward", "forward", "backward", "backward"] * (window == 5)


@pytest.mark.parametrize(
    "where", ["stages.0.blocks.0.attn.w_msa", "stages.0.blocks.1.norm2", "stages.0.blocks.1", ""]
)
def test_hooks_see_what_they_see_of_the_reference(where):
    """Forward and backward hooks on a submodule or the model, which change what they are given."""
    found = {}
    for impl in IMPLS:
        model, seen = build(impl), {}
        hooked = model.get_submodule(where)

        def forward(_, inputs, output, seen=seen):
            seen["output"] = output[0].detach()
            return tuple(x * 1.5 for x in output) if isinstance(output, tuple) else output * 1.5

        def backward(_, d_inputs, d_outputs, seen=seen):
            seen["d_output"] = d_outputs[0]
            return (d_inputs[0] * 0.5,)

        handles = [
            hooked.register_forward_hook(forward),
            hooked.register_full_backward_hook(backward),
        ]
        with_hooks = training_step(model, image())
        for handle in handles:
            handle.remove()
        without = training_step(model, image())
        assert not torch.equal(with_hooks["map 0"], without["map 0"])
        found[impl] = with_hooks | {f"without: {k}": v for k, v in without.items()} | seen
    assert_close(found["triton"], found["reference"])


def test_global_hooks_see_every_module():
    calls = {impl: [] for impl in IMPLS}
    found = {}
    for impl in IMPLS:
        model = build(impl)
        names = {module: name for name, module in model.named_modules()}
        handle = global_hooks.register_module_forward_hook(
            lambda module, *_, names=names, impl=impl: calls[impl].append(names[module])
        )
        try:
            found[impl] = training_step(model, image())
        finally:
            handle.remove()
    assert calls["triton"] == calls["reference"]
    assert_close(found["triton"], found["reference"])


def test_checkpointing_draws_the_same_random_numbers(launches):
    found = [
        training_step(build(impl, with_cp=with_cp, drop_path_rate=0.5).train(), image(2))
        for impl, with_cp in (("reference", False), ("triton", False), ("triton", True))
    ]
    assert_close(found[1], found[0])
    for name, value in found[1].items():
        assert torch.equal(found[2][name], value), name
    # Each block is computed again in backward.
    assert launches.count("forward") == 2 * (1 + 2)


def test_frozen_stages(launches):
    expected, ours = (
        training_step(build(i, frozen_stages=1, **TWO_STAGES).train(), image()) for i in IMPLS
    )
    assert not any(name.startswith("stages.0.blocks") for name in ours)
    assert any(name.startswith("stages.1.blocks") for name in ours)
    assert_close(ours, expected)
    # Nothing below is trained: no gradient is computed but those of the last stage.
    launches.clear()
    model = build("triton", frozen_stages=1, **TWO_STAGES)
    model.patch_embed.requires_grad_(False)
    loss(model(image())).backward()
    assert launches.count("backward") == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_after_inference(mode):
    model = build("triton")
    expected = training_step(build("reference"), image())
    with mode():
        maps = model.eval()(image())
    for i, m in enumerate(maps):
        torch.testing.assert_close(m.clone(), expected[f"map {i}"].detach(), rtol=0, atol=1e-4)
    assert_close(training_step(model.train(), image()), expected)


def test_second_derivatives():
    """Of a penalty on the gradients of the image and of all weights."""
    found = {}
    for impl in IMPLS:
        model = build(impl)
        first = training_step(model, image(), create_graph=True)
        penalty = sum((g**2).sum() for name, g in first.items() if not name.startswith("map"))
        second = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
        names = (name for name, _ in model.named_parameters())
        found[impl] = {n: g for n, g in zip(names, second, strict=True) if g is not None}
    assert len(found["reference"]) > 15
    assert_close(found["triton"], found["reference"])


def test_copies_pickles_and_replicas_compute_alone():
    """What copy, pickle and DataParallel make of a model uses its own weights."""
    model = build("triton")
    expected = training_step(model, image())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_close(training_step(other, image()), expected)
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
        assert not any(m.any() for m in other(image()))
        assert_close(training_step(model, image()), expected)
    replica = replicate(model)
    with torch.no_grad():
        for part in replica.modules():
            for name, p in part._parameters.items():
                part._parameters[name] = None if p is None else p + 0.1
    other = build("reference")
    with torch.no_grad():
        for p in other.parameters():
            p += 0.1
    assert_close(dict(enumerate(replica(image()))), dict(enumerate(other(image()))))
    assert_close(training_step(model, image()), expected)


def replicate(module):
    """What DataParallel makes of a model for another device."""
    replica = module._replicate_for_data_parallel()
    replica._parameters = dict(module._parameters)
    replica._modules = {n: m and replicate(m) for n, m in module._modules.items()}
    return replica


def train_in_a_process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        for with_cp in (False, True):
            model = DistributedDataParallel(build("triton", with_cp=with_cp).train())
            loss(model(image(1, rank))).backward()
            gradients = {name: p.grad for name, p in model.module.named_parameters()}
            torch.save(gradients, f"{folder}/{rank}-{with_cp}.pth")
    finally:
        dist.destroy_process_group()


def test_two_processes_average_gradients(tmp_path):
    multiprocessing.spawn(train_in_a_process, (str(tmp_path),), nprocs=2)
    model = build("reference").train()
    (sum(loss(model(image(1, rank))) for rank in range(2)) / 2).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for rank in range(2):
        for with_cp in (False, True):
            assert_close(torch.load(tmp_path / f"{rank}-{with_cp}.pth"), expected)
