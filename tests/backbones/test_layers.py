"""Blocks computed by ``ops.block``: equal to their modules, which run in all other cases."""

import copy
from functools import partial

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from small_swin import small_model
from torch import nn
from torch.nn.utils import parametrizations

from swin_dense.backbones import swin

make = partial(small_model, global_attention=False)


def step(model, image):
    """Feature maps and gradients of a training step."""
    torch.manual_seed(1)  # stochastic depth
    maps = model(image)
    inputs = [image, *model.parameters()]
    return [*maps, *torch.autograd.grad(sum(m.square().sum() for m in maps), inputs)]


@pytest.fixture
def count(monkeypatch):
    """Number of blocks that ``ops.block`` computes."""
    calls = []
    inner = swin.proj_mlp
    monkeypatch.setattr(swin, "proj_mlp", lambda *args: calls.append(1) or inner(*args))
    return lambda: len(calls)


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_fused_block_equals_its_modules(qkv_bias, with_cp, count):
    """In training with stochastic depth and the same random numbers."""
    ours = make(qkv_bias=qkv_bias, drop_path_rate=0.5, with_cp=with_cp).double()
    plain = make(qkv_bias=qkv_bias, drop_path_rate=0.5, attn_impl="reference").double()
    g = torch.Generator().manual_seed(0)
    image = torch.randn(3, 3, 45, 62, generator=g, dtype=torch.float64, requires_grad=True)
    found = step(ours, image)
    assert count() == (8 if with_cp else 4)
    for a, b in zip(found, step(plain, image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert count() == (8 if with_cp else 4)  # 'reference' runs the modules


class Adapter(nn.Linear):
    """Replaces a linear layer, as parameter-efficient fine-tuning does."""

    def forward(self, x):
        return super().forward(x) + 1


def adapt(block):
    block.ffn.layers[1] = Adapter(64, 16)


def hook(block):
    block.norm2.register_forward_hook(lambda _module, _args, out: out + 1)


def reparametrize(block):
    parametrizations.weight_norm(block.attn["w_msa"].qkv)


def replace_forward(block):
    layer = block.attn["w_msa"].proj
    layer.forward = lambda x: nn.Linear.forward(layer, x) + 1


def replace_mlp(block):
    block.ffn = nn.Linear(16, 16)


def replace_activation(block):
    block.ffn.layers[0][1] = nn.GELU(approximate="tanh")


def replace_norm(block):
    block.norm1 = nn.Identity()


CHANGES = [adapt, hook, reparametrize, replace_forward]
REPLACED = [replace_mlp, replace_activation, replace_norm]


@pytest.mark.parametrize("change", CHANGES + REPLACED)
def test_modified_blocks_run_their_modules(change, count):
    model, image = make().eval(), torch.ones(1, 3, 20, 20)
    plain = make(attn_impl="reference").eval()
    for one in (model, plain):
        torch.manual_seed(2)
        change(one.stages[0].blocks[0])
    maps = model(image)
    assert count() == 3
    for a, b in zip(maps, plain(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_data_parallel_replicas_run_their_modules(count):
    block = copy.copy(make().eval().stages[0].blocks[0])
    block._modules = {**block._modules, "norm1": block.norm1._replicate_for_data_parallel()}
    block._modules["norm1"].weight, block._modules["norm1"].bias = torch.ones(16), torch.zeros(16)
    block(torch.ones(1, 5, 5, 16))
    assert count() == 0


def test_global_hooks_are_called_for_every_module(count):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        make().eval()(torch.ones(1, 3, 20, 20))
    finally:
        handle.remove()
    assert count() == 0
    assert seen.count(DropPath) == 8


def test_dropout_in_training_runs_the_modules(count):
    model = make(drop_rate=0.5)
    model.train()(torch.ones(1, 3, 20, 20))
    assert count() == 0
    model.eval()(torch.ones(1, 3, 20, 20))
    assert count() == 4


def test_transforms_and_meta_tensors_run_the_modules(count):
    model, image = make().eval(), torch.ones(1, 3, 20, 20)
    copy.deepcopy(model).to("meta")(image.to("meta"))
    torch.func.jvp(lambda x: model(x)[0], (image,), (image,))
    parameters = dict(model.named_parameters())
    torch.func.grad(lambda p: torch.func.functional_call(model, p, image)[0].sum())(parameters)
    assert count() == 0
