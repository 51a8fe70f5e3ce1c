"""What of ``configs/`` exports: ``make exports``, or ``python tests/exports.py NAME ...`` for some.

Every config's model is built with few channels and blocks and random weights, and exported whole in
both formats, as ``tools/export.py`` does it: compared with PyTorch on images of three sizes. The
table in docs/export.md is written anew, row by row.
"""

import re
import sys
from pathlib import Path

import torch
from mmengine.registry import MODELS, DefaultScope

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests/configs")]
DOCUMENT = REPO / "docs/export.md"
START, END = "<!-- table: make exports -->\n", "<!-- end of table -->\n"
_ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.M)


def main(names: list[str]) -> None:
    """Tries configs and writes their rows."""
    from leaves import CONFIGS

    every = sorted(path.stem for path in CONFIGS.glob("*.py"))
    for name in names or every:
        row = " | ".join(tried(name, format) for format in ("onnx", "torch-export"))
        print(name, row, flush=True)
        before, rest = DOCUMENT.read_text().split(START)
        table, after = rest.split(END)
        rows = {key: value for key, value in _ROW.findall(table) if key in every}
        rows[name] = row
        lines = [f"| `{key}` | {rows[key]} |" for key in sorted(rows)]
        head = ["", "| config | onnx | torch-export |", "|---|---|---|"]
        table = "\n".join([*head, *lines, "", ""])
        DOCUMENT.write_text(before + START + table + END + after)


def tried(name: str, format: str) -> str:
    """The error of an export, or why there is none."""
    from leaves import load, reduced

    from swin_dense.errors import UserError
    from swin_dense.exporting.export import example_size, export
    from swin_dense.exporting.graphs import make_graph

    torch.manual_seed(0)
    cfg = reduced(load(name))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).eval()
    try:
        graph = make_graph(cfg, model, "model")
        found = export(graph, format, example_size(graph.backbone), name)
    except UserError as error:
        reason = re.sub(rf"{name} |as {format} |, nothing was written", "", str(error))
        return f"no: {reason[:120]}".replace("|", "/")
    return f"{found.largest_error:.0e}"


if __name__ == "__main__":
    main(sys.argv[1:])
