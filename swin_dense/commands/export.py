"""``tools/export.py``: a model, or its backbone, as ONNX file or torch.export program."""

import argparse
import json
from pathlib import Path

from swin_dense import __version__
from swin_dense.engine.config.load import merge_options, read_config
from swin_dense.engine.paths import checkpoint_file, make_output_dir, output_errors
from swin_dense.engine.predictor import Predictor
from swin_dense.engine.terminal.console import notify_user, quiet_terminal
from swin_dense.exporting.export import FORMATS, check_format, convert, example_size, trace
from swin_dense.exporting.graphs import make_graph, plain_backbone
from swin_dense.files import replace_file


def run(args: argparse.Namespace) -> None:
    """Exports, compares with PyTorch, and writes the file.

    Raises:
        UserError: config or checkpoint are wrong, or the model does not export; nothing is written.
    """
    out = Path(args.out or f"{Path(args.config).stem}{FORMATS[args.format]}")
    with quiet_terminal(), output_errors({"--out": out.parent}):
        check_format(args.format)
        checkpoint = checkpoint_file(args.checkpoint)
        options = args.cfg_options or {}
        cfg = read_config(args.config)
        merge_options(cfg, options)
        options = {**options, **plain_backbone(cfg)}
        predictor = Predictor(args.config, checkpoint, "cpu", options)
        graph = make_graph(predictor.cfg, predictor.model, args.part, args.output == "labels")
        make_output_dir(out.parent, "--out")
        size = args.size or example_size(graph.backbone)
        notify_user(f"exporting with images of {size[0]} x {size[1]}: this takes minutes")
        metadata = {
            "classes": json.dumps(predictor.classes),
            "config": Path(args.config).stem,
            "swin_dense": __version__,
        }
        program = trace(graph, size, str(args.config))
        found = convert(program, graph, args.format, str(args.config), metadata)
        with replace_file(out) as file:
            file.write(found.content)
        sizes = ", ".join(f"{b} x 3 x {h} x {w}" for b, h, w in found.sizes)
        compared = f" ({graph.compared})" if graph.compared else ""
        notify_user(f"the same as PyTorch on {sizes}: within {found.largest_error:.0e}{compared}")
        notify_user(f"{out}: takes image (B, 3, H, W), RGB, 0 to 255, of any batch and size")
        notify_user(f"{' ' * len(str(out))}  gives {', '.join(found.outputs)}")
