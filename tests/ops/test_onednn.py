"""Matrix products by oneDNN equal PyTorch's, and are used only where allowed."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from swin_dense.ops import autotune, dispatch
from swin_dense.ops.block import Linear, Norm, norm_linear, pytorch

ONEDNN = pytest.mark.skipif(
    not dispatch.onednn_available(), reason="this PyTorch has no such operator"
)

SHAPES = ((33, 24), (40, 24), (40,), (33, 40))  # input, weight, bias and output


@pytest.fixture
def setting(monkeypatch):
    """Sets the environment variable and clears the cached choice."""

    monkeypatch.setattr(dispatch, "_SMALLEST", 0)

    def choose(value):
        monkeypatch.setenv("SWIN_DENSE_ONEDNN", value)
        dispatch._prefer_onednn.cache_clear()

    yield choose
    dispatch._prefer_onednn.cache_clear()


def calls(monkeypatch):
    """Records the calls of oneDNN's operator from now on."""
    found = []
    inner = dispatch.onednn_linear
    for module in (dispatch, pytorch):
        monkeypatch.setattr(
            module, "onednn_linear", lambda *args: found.append(1) or inner(*args)
        )  # fmt: skip
    inner_add = dispatch.onednn_linear_add
    monkeypatch.setattr(
        pytorch, "onednn_linear_add", lambda *args: found.append(1) or inner_add(*args)
    )
    return found


@ONEDNN
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_equals_pytorch(setting, bias, monkeypatch):
    setting("1")
    found = calls(monkeypatch)
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(33, 24, generator=g), torch.randn(40, 24, generator=g)
    b = torch.randn(40, generator=g) if bias else None
    exact = F.linear(x.double(), weight.double(), b if b is None else b.double())
    grad = torch.randn(33, 40, generator=g)
    for ours, expected in [
        (pytorch.linear(x, weight, b), exact),
        (pytorch.linear_gelu(x, weight, b), F.gelu(exact)),
        (pytorch.input_gradient(grad, weight), grad.double() @ weight.double()),
        (pytorch.weight_gradient(grad, x, None), grad.t().double() @ x.double()),
        (pytorch.weight_gradient(x, grad, None), x.t().double() @ grad.double()),
        (pytorch.weight_gradient(x, grad, x.t() @ grad), 2 * x.t().double() @ grad.double()),
    ]:
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    assert len(found) == 6


@pytest.mark.parametrize("setting_", ["0", "1"])
@pytest.mark.parametrize("scale", [None, 0.0, 1.25])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residuals_are_added(setting, setting_, dtype, bias, scale):
    """``total + scale * linear(x)``, rounded as often as by a product and a sum at most."""
    setting(setting_)
    g = torch.Generator().manual_seed(0)
    x, weight, b, total = (torch.randn(s, generator=g).to(dtype) for s in SHAPES)
    layer = Linear(weight, b if bias else None)
    exact = F.linear(x.double(), weight.double(), b.double() if bias else None)
    expected = total.double() + (1 if scale is None else scale) * exact
    before = total.clone()
    found = pytorch.linear_add(total, x, layer, scale)
    assert found.dtype == dtype
    assert found.data_ptr() != total.data_ptr()
    assert torch.equal(total, before)
    error = {torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=error, atol=20 * error)


@ONEDNN
def test_bf16_goes_to_onednn_where_the_processor_can(setting, monkeypatch):
    setting("")
    x, weight = torch.ones(2, 4).bfloat16(), torch.ones(3, 4).bfloat16()
    found = calls(monkeypatch)
    monkeypatch.setattr(dispatch, "_onednn_takes_bf16", lambda: False)
    for function in (pytorch.linear, pytorch.linear_gelu):
        function(x, weight, None)
    pytorch.linear_add(torch.ones(2, 3).bfloat16(), x, Linear(weight, None), None)
    assert not found
    monkeypatch.setattr(dispatch, "_onednn_takes_bf16", lambda: True)
    pytorch.linear_add(torch.ones(2, 3).bfloat16(), x, Linear(weight, None), None)
    assert found


@ONEDNN
@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # PyTorch's, about its own flag
def test_environment_variable_and_pytorch_flags(setting, monkeypatch):
    x, weight = torch.ones(2, 4), torch.ones(3, 4)
    found = calls(monkeypatch)
    setting("0")
    pytorch.linear(x, weight, None)
    pytorch.linear(x.bfloat16(), weight.bfloat16(), None)
    setting("1")
    with torch.backends.mkldnn.flags(enabled=False):
        pytorch.linear(x, weight, None)
        pytorch.linear(x.bfloat16(), weight.bfloat16(), None)
    pytorch.linear(x.double(), weight.double(), None)
    assert not found
    pytorch.linear(x, weight, None)
    assert found
    monkeypatch.setattr(dispatch, "_SMALLEST", 25)
    pytorch.linear(x, weight, None)
    assert len(found) == 1


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("faster", "winner"), [(0.5, "oneDNN"), (0.99, "MKL"), (2.0, "MKL")])
def test_faster_backend_is_chosen_once(setting, monkeypatch, tmp_path, backward, faster, winner):
    """A tie goes to PyTorch's own."""
    runs = []

    def measure(race, notes):
        runs.append(race.what)
        times = {"MKL": 1.0, "oneDNN": faster}
        handicaps = {c.name: c.handicap for c in race.candidates}
        return autotune.Result(min(times, key=lambda name: times[name] * handicaps[name]), times)

    monkeypatch.setattr(dispatch, "onednn_available", lambda: True)
    monkeypatch.setattr(autotune, "measure", measure)
    monkeypatch.setenv("SWIN_DENSE_CACHE_DIR", str(tmp_path))
    autotune.forget()
    setting("")
    for _ in range(2):
        assert dispatch._prefer_onednn(backward, 1, False, False) == (winner == "oneDNN")
    assert len(runs) == 1
    dispatch._prefer_onednn.cache_clear()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not dispatch._prefer_onednn(backward, 1, True, False)  # PyTorch's own
    assert len(runs) == 1
    autotune.forget()


@ONEDNN
@pytest.mark.parametrize("backward", [False, True])
def test_both_backends_are_right_and_timed(backward):
    result = autotune.measure(dispatch.race_of_products(backward))
    assert result.ms.keys() == {"MKL", "oneDNN"}
    assert not result.left_out


@ONEDNN
def test_backend_that_disagrees_is_left_out(monkeypatch):
    """For its values, or for the form that a gradient needs."""
    inner = dispatch.onednn_linear
    wrong = {
        False: lambda x, w, b, activation: inner(x, w, b, "none"),  # GELU forgotten
        True: lambda x, w, b, activation: inner(x, w, b, activation).mul_(1.001),
    }
    for backward, function in wrong.items():
        monkeypatch.setattr(dispatch, "onednn_linear", function)
        result = autotune.measure(dispatch.race_of_products(backward))
        assert result.winner == "MKL"
        assert result.left_out["oneDNN"].startswith("wrong by")


def test_inference_mode_and_another_default_device():
    with torch.inference_mode(), torch.device("meta"):
        assert "MKL" in autotune.measure(dispatch.race_of_products(True)).ms


def test_flops_are_counted(setting):
    setting("1")
    norm = Norm(torch.ones(24), torch.zeros(24), 1e-5)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        norm_linear(torch.ones(5, 24), norm, Linear(torch.ones(40, 24), None))
    assert counter.get_total_flops() == 2 * 5 * 24 * 40
