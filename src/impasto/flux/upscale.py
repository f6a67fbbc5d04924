"""The upscaler behind the embedded model: its native 256 pixels a side → 1024. Real checkpoints never touch it.

The network is Real-ESRGAN's SRVGG ("realesr-animevideov3", BSD-3-Clause, Wang et al. 2021): sixteen plain
convolutions at the small size and one pixel shuffle at the end, added to the picture repeated four times. Attribute
names equal its checkpoint's keys.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

FACTOR = 4


class Upscaler(nn.Module):
    """Pixels [B, 3, H, W] in 0..1 → [B, 3, 4 H, 4 W], about 0..1, not clamped. The picture itself stays in x's dtype,
    float32, so that a body in bf16 rounds only the detail it adds.
    """

    def __init__(self, features: int = 64, layers: int = 16) -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(layers):
            body += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        body.append(nn.Conv2d(features, 3 * FACTOR**2, 3, padding=1))
        self.body = nn.ModuleList(body)

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(next(self.parameters()).dtype)
        for layer in self.body:
            h = layer(h)
        return F.pixel_shuffle(h.to(x.dtype), FACTOR) + F.interpolate(x, scale_factor=float(FACTOR), mode="nearest")
