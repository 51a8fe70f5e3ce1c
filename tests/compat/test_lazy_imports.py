"""transformers and matplotlib are imported when they are used, and then work as before."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import OPTIMIZERS
from mmengine.visualization import Visualizer

# What OpenMMLab takes from transformers, in a package of that name.
TRANSFORMERS = {
    "__init__.py": """
from torch import nn
class BertConfig:
    chunk_size_feed_forward, hidden_size, num_attention_heads = 0, 4, 2
    attention_probs_dropout_prob, is_decoder = 0, False
class BertPreTrainedModel(nn.Module):
    def __init__(self, config):
        super().__init__()
class BertModel: ...
class AutoTokenizer:
    from_pretrained = staticmethod('tokens of {}'.format)
class Adafactor: ...
""",
    "modeling_utils.py": "def apply_chunking_to_forward(*args): ...",
    "models/__init__.py": "",
    "models/bert/__init__.py": "",
    "models/bert/modeling_bert.py": """
from torch import nn
class BertAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
class BertIntermediate(BertAttention): ...
class BertOutput(BertAttention): ...
""",
}
SCRIPT = """
import pickle, sys
import swin_dense, mmdet.models, mmdet.datasets, mmdet.engine, mmdet.evaluation
assert not [name for name in sys.modules if name.startswith('swin_dense.engine')]
lazy = {'matplotlib', 'transformers'}
from mmengine.visualization import Visualizer
Visualizer.get_instance('numbers')
assert not lazy & set(sys.modules)

from mmdet.models.utils import BertEncoderLayer, VLFuse, vlfuse_helper
from mmdet.models.language_models import bert
assert bert.AutoTokenizer.from_pretrained('a') == 'tokens of a'
assert lazy & set(sys.modules) == {'transformers'}
import transformers
layer = BertEncoderLayer(transformers.BertConfig())
assert isinstance(layer, transformers.BertPreTrainedModel)
assert pickle.loads(pickle.dumps(layer)).attention.__class__ is vlfuse_helper.BertAttention
assert vlfuse_helper.VLFuse is VLFuse  # not a second one
from mmengine.registry import OPTIMIZERS
assert type(OPTIMIZERS.build({'type': 'Adafactor'})) is transformers.Adafactor
"""


def test_imports_wait_for_use(python, tmp_path: Path) -> None:
    for name, text in TRANSFORMERS.items():
        path = tmp_path / "transformers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    python("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SCRIPT}")


def test_adafactor_trains() -> None:
    pytest.importorskip("transformers")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS.build({"type": "Adafactor", "params": [weight], "lr": None})
    weight.sum().backward()
    optimizer.step()
    assert bool((weight < 1).all())


def test_language_model_of_grounding_dino(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from mmdet.registry import MODELS

    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "cat", "?"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    model = MODELS.build(
        {"type": "mmdet.BertModel", "name": str(tmp_path), "num_layers_of_embedded": 1}
    )
    found = model(["cat. dog."])
    assert found["embedded"].shape[0] == 1
    assert found["embedded"].shape[2] == 8


def test_pictures_of_tracks_still_have_matplotlib() -> None:
    import mmdet.utils.mot_error_visualize as drawing

    assert drawing.plt.figure.__module__ == "matplotlib.pyplot"
    assert drawing.Rectangle((0, 0), 1, 2).get_height() == 2


def test_visualizers_draw_as_before() -> None:
    class Eager(Visualizer):
        _initialize_fig = Visualizer._initialize_fig.__wrapped__

    image = np.full((20, 30, 3), 7, np.uint8)
    pictures = []
    for kind in (Visualizer, Eager):
        drawing = kind(kind.__name__)
        drawing.set_image(image)
        drawing.draw_bboxes(np.array([[3, 4, 15, 16]])).draw_texts("a", np.array([5, 5]))
        pictures.append(drawing.get_image())
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != image).any()


def test_nothing_is_deferred_that_is_not_installed(monkeypatch) -> None:
    from swin_dense.compat import lazy_imports

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    with lazy_imports._deferring("transformers") as deferred:
        assert not deferred
        assert "transformers" not in sys.modules


@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_tools_work_with_one_of_the_packages(python, package):
    """With mmdet alone, or mmseg alone, whatever the model does not need is not imported."""
    python(
        "-c",
        f"import sys; sys.modules[{package!r}] = None\n"
        "import swin_dense.engine.train, swin_dense.engine.test, swin_dense.engine.predict_files\n"
        "import swin_dense.reports, swin_dense.engine.trained_model, swin_dense.commands.report\n"
        "import swin_dense.commands.inspect_data, swin_dense.commands.convert_data\n"
        "from mmengine.registry import Registry; from swin_dense import registry\n"
        "for one in vars(registry).values():\n"
        "    if isinstance(one, Registry) and one.scope == 'swin_dense':\n"
        "        one.import_from_location()",
    )
