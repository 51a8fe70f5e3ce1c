"""What kernels take of a GPU: from machine code, by hand, and compiled without one."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from swin_dense.benchmarks.kernel_calls import all_calls, other_schedules
from swin_dense.benchmarks.kernel_code import TARGETS, Launch, Sass, parse_target
from swin_dense.benchmarks.kernels import Clock, KernelRun, find_clock, measure_kernels
from swin_dense.benchmarks.measurement import Timing
from swin_dense.benchmarks.report import benchmarks_document, rows_of, terminal_table, title_of
from swin_dense.errors import UserError
from swin_dense.ops import triton_support

HOPPER = TARGETS["sm_90"]
NOT_COMPILED = triton_support.unavailable_reason() or (
    "TRITON_INTERPRET is set" if triton_support.interpreted() else None
)
COMPILED = pytest.mark.skipif(NOT_COMPILED is not None, reason=f"compiling {NOT_COMPILED}")

# nvdisasm -c of attention's backward_keys (M=12, sm_90, triton 3.6), most instructions left out.
SASS = """
	.section	.text.backward_keys,"ax",@progbits
backward_keys:
.text.backward_keys:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*01f0*/               @P1 EXIT ;
        /*0200*/                   IABS R23, R24.reuse ;
.L_x_1:
        /*0c40*/                   I2F.RP R6, R23 ;
        /*0c50*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_0:
        /*1550*/                   LDG.E.128 R8, desc[UR14][R8.64] ;
        /*1560*/              @!P3 MUFU.EX2 R4, R4 ;
        /*1570*/                   HGMMA.64x32x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
        /*1580*/                   NOP ;
        /*2ef0*/              @!P2 BRA `(.L_x_0) ;
        /*2f00*/                   STG.E.128 desc[UR14][R2.64], R4 ;
        /*32d0*/              @!P0 BRA `(.L_x_1) ;
        /*32e0*/                   EXIT ;
.L_x_2:
        /*32f0*/                   BRA `(.L_x_2);
        /*3300*/                   NOP;
        /*3310*/                   NOP;
.L_x_3:
"""


def test_loops_of_machine_code():
    sass = Sass.parse(SASS)
    assert sass == (13, ((3, 11), (5, 9)))
    # 9 instructions in the loop over windows, 5 of them in the loop over queries; 4 around it.
    assert sass.issue_slots() == ([9], 4)
    assert sass.issue_slots(inner_passes=3) == ([9 + 2 * 5], 4)


def test_several_loops():
    # Two after each other, of which the first has two ends and another in it; then a short wait.
    sass = Sass(200, ((10, 49), (10, 40), (20, 29), (60, 139), (150, 152)))
    assert sass.issue_slots() == ([80, 40], 80)
    assert sass.issue_slots(inner_passes=2) == ([80, 50], 80)


def test_machine_code_without_a_loop():
    text = "\n".join(line for line in SASS.splitlines() if "BRA `(.L_x_0" not in line)
    text = text.replace("@!P0 BRA `(.L_x_1)", "@!P0 BRA `(.L_x_2)")
    sass = Sass.parse(text)
    assert sass == (12, ())
    assert sass.issue_slots() == ([12], 0)


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "expected"),
    [
        # 96 x 32 = 3072 registers a warp; 5 in the 16384 of each of 4 schedulers: 20 warps.
        ("sm_90", 96, 28672, 4, (5, "registers")),
        # 124 x 32 = 3968, rounded up to 4096: 4 in each, 16 warps.
        ("sm_90", 124, 24960, 4, (4, "registers")),
        # 255 x 32 = 8160 -> 8192: 2 in each, 8 warps, of which a program has all.
        ("sm_90", 255, 1024, 8, (1, "registers")),
        # 16 warps of 8192 registers are more than 65536.
        ("sm_90", 255, 1024, 16, (0, "registers")),
        # 24960 + 1024 = 203 x 128 bytes; 3 times in 102400, 8 times in 233472.
        ("sm_86", 40, 24960, 4, (3, "shared memory")),
        ("sm_90", 40, 24960, 4, (8, "shared memory")),
        # All but 1 KB of a multiprocessor's shared memory, and 1 byte more.
        ("sm_80", 40, 163 * 1024, 4, (1, "shared memory")),
        ("sm_80", 40, 163 * 1024 + 1, 4, (0, "shared memory")),
        # 48 warps, of 64 for which there are registers.
        ("sm_89", 32, 0, 16, (3, "warps")),
        ("sm_120", 16, 0, 1, (24, "programs")),
    ],
)
def test_programs_of_a_multiprocessor(target, registers, shared, warps, expected):
    assert TARGETS[target].programs_per_sm(registers, shared, warps) == expected


def test_targets():
    assert parse_target("sm_100").capability == (10, 0)
    assert [target.capability for target in TARGETS.values()][:4] == [
        (8, 0),
        (8, 6),
        (8, 9),
        (9, 0),
    ]
    with pytest.raises(UserError, match="unknown --target 'sm_70': choose one of sm_80, sm_86"):
        parse_target("sm_70")


def launch_of(name: str = "kernel", programs: int = 1, **arguments) -> Launch:
    options = SimpleNamespace(num_warps=4, num_stages=1, shared=0)
    return Launch(SimpleNamespace(__name__=name), options, b"", (programs, 1, 1), arguments)


def test_passes_of_a_loop():
    window = {"n_windows": 7616, "heads": 3, "M": 12, "BLOCK": 64}
    # 144 tokens are 3 blocks of 64, so 531 programs are 59 for each head and block.
    assert launch_of(programs=531, **window).passes == (130, 1)
    assert launch_of(n_rows=1000, ROWS=64, CHUNK=32, HIDDEN=384).passes == (12, 1)
    assert launch_of(n_rows=1000, ROWS=64, CHUNK=64, FEATURES=192).passes == (3, 1)
    assert launch_of(programs=6, n_rows=1000, ROWS=8).passes == (21, 1)
    assert launch_of(programs=125, n_rows=1000, ROWS=8).passes == (1, 1)
    assert launch_of(programs=6, n_blocks=125, ROWS=8).passes == (21, 1)


def test_bytes_of_tensors():
    x = torch.empty(10, 3)
    y = torch.empty(10, 3, dtype=torch.bfloat16)
    assert launch_of(x=x, y=y, scale=None, n_rows=10).bytes_moved == 120 + 60
    assert launch_of(d=y, h=x, out=y).bytes_moved == 60 + 120 + 60  # d is written over
    assert launch_of("backward_queries", d_qkv=x, qkv=y).bytes_moved == 40 + 60
    assert launch_of("backward_keys", d_qkv=x, qkv=y).bytes_moved == 80 + 60


def test_schedules_that_are_tried():
    mlp = {"ROWS": 64, "CHUNK": 64, "HIDDEN": 96, "num_warps": 4, "num_stages": 2}
    found = [changes["mlp_schedule"] for changes in other_schedules({"mlp_schedule": mlp})]
    assert {one["ROWS"] for one in found} == {32, 64, 128}
    assert {one["CHUNK"] for one in found} == {32}  # 64 does not divide 96
    assert len(found) == 3 * 2 * 3
    norm = {"ROWS": 1, "COLUMNS": 2048, "num_warps": 4}
    found = [changes["norm_schedule"] for changes in other_schedules({"norm_schedule": norm})]
    assert found == [{"num_warps": w, "ROWS": r} for w in (4, 8) for r in (1, 2)]


def test_calls_have_names_of_their_own():
    names = [call.name for call in all_calls()]
    assert len(names) == len(set(names))
    assert {"attention backward M=16 shifted, padded", "mlp_backward C=256"} <= set(names)
    assert "mlp C=384" not in names  # no kernel of that width


def clock(seconds: float = 1e-3) -> Clock:
    """As if every kernel took so long, on a GPU that copies 1e12 bytes a second."""

    def time(steps):
        return {name: Timing((seconds, seconds)) for name in steps}

    return Clock(torch.device("meta"), time, 1e12)


@COMPILED
def test_a_kernel_is_compiled_without_a_gpu():
    record = measure_kernels(KernelRun(HOPPER, "bf16", only="add C=96"))
    (found,) = record["kernels"]
    assert found["name"] == "add C=96"
    assert found["kernel"] == "add_layer_norm"
    assert 16 <= found["registers"] <= 64
    assert found["spilled_bytes"] == 0
    assert found["shared_bytes"] < 10_000
    assert found["programs"] == -(-16 * 200 * 336 // found["schedule"]["ROWS"])
    shared = found["registers"], found["shared_bytes"], found["warps"]
    assert (found["programs_per_sm"], found["limited_by"]) == HOPPER.programs_per_sm(*shared)
    assert 50 < found["issue_slots"] < 1000
    assert record["machine"] == {
        "device": "compiled",
        "name": "compiled for sm_90 (H100 SXM, H200), no GPU",
    }
    text = json.dumps(record)
    assert "_ms" not in text  # no time that was not measured
    assert "gb_s" not in text
    # Nothing is left behind: kernels need a GPU again.
    assert triton_support.unsupported_device_reason(torch.device("cpu")) is not None
    assert triton_support.multiprocessors(torch.device("cpu")) == 1


@COMPILED
def test_programs_follow_the_target():
    """A loop over rows has as many programs as the target's multiprocessors want."""
    programs = {}
    for name in ("sm_90", "sm_120"):
        run = KernelRun(TARGETS[name], "bf16", only="layer_norm_backward C=1536")
        programs[name] = measure_kernels(run)["kernels"][0]["programs"]
    assert programs["sm_120"] * 132 == programs["sm_90"] * 170


@COMPILED
@pytest.mark.parametrize("name", ["sm_90", "sm_120"])
def test_attention_fills_the_target(name):
    """A loop over windows has as many programs as the target's multiprocessors hold at once."""
    run = KernelRun(TARGETS[name], "bf16", only="attention forward M=7 plain")
    (found,) = measure_kernels(run)["kernels"]
    most = found["programs_per_sm"] * TARGETS[name].multiprocessors
    assert 0.95 * most < found["programs"] <= most


@COMPILED
def test_times_are_those_of_the_clock():
    record = measure_kernels(KernelRun(HOPPER, "bf16", only="add C=1536", clock=clock()))
    (found,) = record["kernels"]
    rows = 16 * 25 * 42
    moved = 3 * rows * 1536 * 2 + 16 * 4  # x, y and their sum; the factors of images
    assert found["median_ms"] == 1.0
    assert found["gb_s"] == round(moved / 1e-3 / 1e9, 1)
    assert found["roofline_share"] == round(moved / 1e12 / 1e-3, 4)
    assert record["copy_gb_s"] == 1000.0
    assert rows_of({**record, "kind": "kernels"})[0][-2:] == ["ms", "roofline"]


@COMPILED
def test_sweep():
    from swin_dense.ops.block.triton import launch

    default = launch.norm_schedule
    record = measure_kernels(KernelRun(HOPPER, "bf16", only="add C=1536", sweep=True))
    assert launch.norm_schedule is default
    first, *others = record["kernels"]
    assert first["default"]
    assert 2 <= len(others) <= 4
    cycles = [one["issue_kcycles"] for one in others]
    assert cycles == sorted(cycles)
    for one in (first, *others):
        assert one["programs"] == -(-16 * 25 * 42 // one["schedule"]["ROWS"])
    schedules = [tuple(one["schedule"].items()) for one in (first, *others)]
    assert len(schedules) == len(set(schedules))
    headings, row, *_ = rows_of({**record, "kind": "kernels"})
    assert headings[-2:] == ["waves", "kcycles"]
    assert row[0].startswith("add C=1536: rows 1 warps 4 stages 3 (default)")


def test_what_cannot_be_compiled(monkeypatch):
    monkeypatch.setattr(triton_support, "_INTERPRETED", True)
    with pytest.raises(UserError, match="TRITON_INTERPRET is set") as found:
        measure_kernels(KernelRun(HOPPER, "bf16"))
    assert "\n" not in str(found.value)
    monkeypatch.setattr(triton_support, "_INSTALLED", False)
    with pytest.raises(UserError, match="compiling kernels needs the package triton"):
        measure_kernels(KernelRun(HOPPER, "bf16"))


def test_no_clock_without_a_gpu_of_the_target(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_clock(HOPPER, "bf16", 3) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    assert find_clock(HOPPER, "bf16", 3) is None


def record_of_kernels(**more) -> dict:
    """A record with a long name and wide numbers."""
    kernel = {
        "name": "attention backward M=16 shifted, padded, backward_queries",
        "kernel": "backward_queries",
        "registers": 255,
        "spilled_bytes": 1234,
        "shared_bytes": 232448,
        "warps": 16,
        "programs_per_sm": 12,
        "issue_slots": 12345,
        "slots_of_other_loops": [1234],
        "waves": 127.27,
        "issue_kcycles": 12345.6,
        "schedule": {"BLOCK": 64, "TILES": (128, 16), "warps": 16, "stages": 3},
    }
    return {
        "kind": "kernels",
        "command": "tools/benchmark.py kernels",
        "date": "2030-01-01",
        "machine": {"device": "compiled", "name": "compiled for sm_90 (H200), no GPU"},
        "versions": "some",
        "settings": {"target": "sm_90", "dtype": "bf16", "only": "", "sweep": False},
        "triton": "3.6.0",
        "kernels": [kernel | more, kernel | {"programs_per_sm": 0}],
    }


TIMED = {"median_ms": 12.345, "quartiles_ms": [12.0, 13.0], "gb_s": 4000.0, "roofline_share": 0.95}


@pytest.mark.parametrize("more", [{}, TIMED, {"default": True}, {"default": True, **TIMED}])
def test_tables_fit_80_columns(more):
    record = record_of_kernels(**more) | ({"copy_gb_s": 4000.0} if "gb_s" in more else {})
    text = io.StringIO()
    Console(file=text, width=80).print(terminal_table(record))
    assert max(map(len, text.getvalue().splitlines())) <= 80
    words = {word for row in rows_of(record) for cell in row for word in cell.split()}
    assert words <= set(text.getvalue().split())  # none is cut
    assert {"12345/1234", "0"} <= words


def test_the_document_has_a_section():
    record = record_of_kernels()
    assert title_of(record) == "kernels: sm_90, bf16"
    text = benchmarks_document([record], "tools/benchmark.py report", {})
    assert "## Triton kernels" in text
    assert "compiled for sm_90 (H200), no GPU, 2030-01-01. `tools/benchmark.py kernels`" in text
    assert "|  | regs | spill | shared | warps | per SM | slots |" in text
    assert "SASS instructions that a warp issues in one pass" in text
    assert "Compiled by triton 3.6.0." in text


@COMPILED
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_times_on_a_gpu():
    target = TARGETS["sm_{}{}".format(*torch.cuda.get_device_capability())]
    run = KernelRun(target, "bf16", only="add C=1536", clock=find_clock(target, "bf16", rounds=2))
    record = measure_kernels(run)
    assert record["machine"]["device"] == "cuda"
    assert record["kernels"][0]["median_ms"] > 0
