"""ResNeXt with the global self-attention of HTC++ on its last feature map."""

from typing import Any

from mmdet.models.backbones import ResNeXt
from torch import Tensor, nn

from swin_dense.backbones.layers import GlobalAttention
from swin_dense.ops.dispatch import AttnImpl
from swin_dense.registry import MODELS

_HEAD_CHANNELS = 32  # as in Swin


class GlobalLayer(GlobalAttention):
    """Every position of a feature map attends to every other; the result is added to the map.

    Unlike the layer that HTC++ adds to a Swin it has neither an output projection nor an MLP. The
    paper describes neither of them (arXiv 2103.14030, section 4.2), and this form is the one that
    gives the published parameters and FLOPs with X101-64x4d.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            channels,
            channels // _HEAD_CHANNELS,
            qkv_bias=True,
            attn_drop_rate=0.0,
            drop_rate=0.0,
            attn_impl=AttnImpl.parse("sdpa"),
        )
        self.proj = nn.Identity()  # type: ignore[assignment]
        nn.init.trunc_normal_(self.qkv.weight, std=0.02)
        nn.init.zeros_(self.qkv.bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``(B, C, H, W) -> (B, C, H, W)``."""
        return x + super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class GlobalResNeXt(ResNeXt):
    """mmdet's ResNeXt, with its arguments and parameter names, and a :class:`GlobalLayer`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.global_layer = GlobalLayer(self.feat_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature maps of ``out_indices``, of which the last stage has to be one."""
        *maps, last = super().forward(x)
        return (*maps, self.global_layer(last))
