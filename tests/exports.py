"""What of ``configs/`` exports: ``make exports``, or ``python tests/exports.py NAME ...`` for some.

Every config's model is built with few channels and blocks and random weights, and exported whole in
both formats, as ``tools/export.py`` does it: compared with PyTorch on images of three sizes. The
table in docs/export.md is written anew, row by row.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests/configs")]
DOCUMENT = REPO / "docs/export.md"
START, END = "<!-- table: make exports -->\n", "<!-- end of table -->\n"
_TRAINING = "init_cfg|train_cfg|drop_path_rate|loss|pretrained"
_ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.M)


def main(names: list[str]) -> None:
    """Tries configs and writes their rows."""
    from leaves import CONFIGS

    every = sorted(path.stem for path in CONFIGS.glob("*.py"))
    found: dict[str, str] = {}
    for name in names or every:
        row = found.setdefault(model_of(name), "") or " | ".join(tried(name))
        found[model_of(name)] = row
        print(name, row, flush=True)
        before, rest = DOCUMENT.read_text().split(START)
        table, after = rest.split(END)
        rows = {key: value for key, value in _ROW.findall(table) if key in every}
        rows[name] = row
        lines = [f"| `{key}` | {rows[key]} |" for key in sorted(rows)]
        table = "\n".join(["| config | onnx | torch-export |", "|---|---|---|", *lines, ""])
        DOCUMENT.write_text(f"{before}{START}{table}{END}{after}")


def model_of(name: str) -> str:
    """The reduced model, but for how it is trained: several configs have the same one."""
    from leaves import load, reduced

    def inference(node: Any) -> Any:
        if isinstance(node, dict):
            kept = {k: v for k, v in node.items() if not re.match(_TRAINING, k)}
            return {k: inference(v) for k, v in kept.items()}
        return [inference(v) for v in node] if isinstance(node, (list, tuple)) else node

    return json.dumps(inference(reduced(load(name)).model.to_dict()), sort_keys=True, default=str)


def tried(name: str) -> Iterator[str]:
    """For each format the error of an export, or why there is none."""
    from leaves import load, reduced

    from swin_dense.errors import UserError
    from swin_dense.exporting.export import FORMATS, convert, example_size, trace
    from swin_dense.exporting.graphs import make_graph

    torch.manual_seed(0)
    cfg = reduced(load(name))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).eval()
    program, reason = None, ""
    try:
        graph = make_graph(cfg, model, "model")
        program = trace(graph, example_size(graph.backbone), name)
    except UserError as error:
        reason = str(error)
    for format in FORMATS:
        try:
            if program is None:
                raise UserError(reason)
            yield f"{convert(program, graph, format, name).largest_error:.0e}"
        except UserError as error:
            text = re.sub(rf"{name} |as {format} |[,:] nothing was written", "", str(error))
            yield f"no: {text if len(text) < 100 else text[:99] + '…'}".replace("|", "/")


if __name__ == "__main__":
    main(sys.argv[1:])
