"""A lower learning rate for lower layers, as after pretraining with masked images."""

import re
from collections import Counter

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from swin_dense.engine.weights import without_wrappers
from swin_dense.errors import UserError
from swin_dense.registry import OPTIM_WRAPPER_CONSTRUCTORS

_PART = re.compile(
    r"^(.*\bbackbone\.)(?:stages\.\d+\.(?:(blocks\.\d+\.)|downsample\.)|patch_embed\.)"
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """mmengine's, which also multiplies the learning rate once for each layer that lies above.

    With ``paramwise_cfg=dict(layer_decay=0.8, ...)`` the last block has 0.8 times the learning rate
    of heads, neck and output norms, the first of n blocks ``0.8 ** n`` times, the patch embedding
    ``0.8 ** (n + 1)``. A patch merging learns as the block before it. Other options are mmengine's.

    Source: ``get_swin_layer`` in optimizer.py of https://github.com/microsoft/SimMIM.

    Raises:
        UserError: the factor is missing or not in (0, 1], or the model has no Swin backbone.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The optimizer of a model's parameters, each with its learning rate."""
        decay = self.paramwise_cfg.get("layer_decay")
        if not isinstance(decay, (int, float)) or not 0 < decay <= 1:
            raise UserError(
                f"optim_wrapper.paramwise_cfg.layer_decay is {decay}: give a factor above 0 and "
                "at most 1"
            )
        wrapper = super().__call__(model)
        above = layers_above(without_wrappers(model))
        for group in wrapper.optimizer.param_groups:  # one for each parameter
            group["lr"] *= decay ** above.get(id(group["params"][0]), 0)
        return wrapper


def layers_above(model: nn.Module) -> dict[int, int]:
    """How many layers lie above each parameter of blocks, patch mergings and patch embeddings.

    Returns:
        Numbers by the ``id`` of the parameter.

    Raises:
        UserError: the model has no backbone with these parts.
    """
    own: dict[int, tuple[str, int]] = {}  # the backbone, and the layer counted from below
    blocks: Counter[str] = Counter()  # so far: parameters come in the order of the layers
    seen = set()
    for name, parameter in model.named_parameters():
        if found := _PART.match(name):
            backbone, is_block = found.groups()
            if is_block and found[0] not in seen:
                seen.add(found[0])
                blocks[backbone] += 1
            own[id(parameter)] = backbone, blocks[backbone]
    if not blocks:
        raise UserError("layer_decay: the model has no Swin backbone, so remove the constructor")
    return {key: blocks[backbone] + 1 - layer for key, (backbone, layer) in own.items()}
