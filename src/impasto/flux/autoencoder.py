"""The FLUX autoencoder: pixels ↔ latents, 8x smaller a side, 16 channels.

Pixels are [B, 3, H, W] in -1..1 with H and W multiples of 8; latents [B, 16, H/8, W/8], shifted and scaled so that the
transformer sees about unit variance. Attribute names equal the keys of BFL's `ae.safetensors`. Convolutions run
channels_last (`Autoencoder.channels_last()` after loading): several times faster on CPUs, a little on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.flux.models import AutoencoderParams


def _conv(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=kernel, padding=kernel // 2)


def _norm(groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Twice norm, SiLU, convolution, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(groups, in_channels)
        self.conv1 = _conv(in_channels, out_channels)
        self.norm2 = _norm(groups, out_channels)
        self.conv2 = _conv(out_channels, out_channels)
        self.nin_shortcut = _conv(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head attention over all positions, at the smallest resolution only."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = _norm(groups, channels)
        self.q = _conv(channels, channels, 1)
        self.k = _conv(channels, channels, 1)
        self.v = _conv(channels, channels, 1)
        self.proj_out = _conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Stride 2, padded on the right and below only, as the checkpoints were trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles each pixel, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """One resolution: its residual blocks, and the step to the next resolution unless it is the last."""

    def __init__(
        self, blocks: list[ResnetBlock], *, down: Downsample | None = None, up: Upsample | None = None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        if down is not None:
            self.downsample = down
        if up is not None:
            self.upsample = up

    def forward(self, x: Tensor) -> Tensor:
        for child in self.stages():
            x = child(x)
        return x

    def stages(self) -> Iterator[nn.Module]:
        yield from self.block
        yield from (module for name, module in self.named_children() if name != "block")


class Middle(nn.Module):
    """Residual, attention, residual."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups=groups)
        self.attn_1 = AttnBlock(channels, groups=groups)
        self.block_2 = ResnetBlock(channels, channels, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels [B, 3, H, W] → mean and log variance [B, 2 z, H/8, W/8]."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        groups = params.norm_groups
        widths = [params.ch * mult for mult in params.ch_mult]
        self.conv_in = _conv(params.in_channels, params.ch)
        self.down = nn.ModuleList()
        width = params.ch
        for i, out in enumerate(widths):
            blocks = [ResnetBlock(width if j == 0 else out, out, groups=groups) for j in range(params.num_res_blocks)]
            self.down.append(Level(blocks, down=Downsample(out) if i < len(widths) - 1 else None))
            width = out
        self.mid = Middle(width, groups=groups)
        self.norm_out = _norm(groups, width)
        self.conv_out = _conv(width, 2 * params.z_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latents [B, z, H/8, W/8] → pixels [B, 3, H, W]."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        groups = params.norm_groups
        widths = [params.ch * mult for mult in params.ch_mult]
        width = widths[-1]
        self.conv_in = _conv(params.z_channels, width)
        self.mid = Middle(width, groups=groups)
        levels: list[Level] = []
        for i, out in reversed(list(enumerate(widths))):
            blocks = [
                ResnetBlock(width if j == 0 else out, out, groups=groups) for j in range(params.num_res_blocks + 1)
            ]
            levels.append(Level(blocks, up=Upsample(out) if i > 0 else None))
            width = out
        # Checkpoints number the levels from the finest, so the list runs against the order of computation.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = _norm(groups, width)
        self.conv_out = _conv(width, params.out_ch)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Autoencoder(nn.Module):
    """Encoder and decoder with the affine map between the autoencoder's latents and the transformer's."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        self.params = params
        self.encoder = Encoder(params)
        self.decoder = Decoder(params)

    def channels_last(self) -> Autoencoder:
        """Lays the convolutions' weights out channels_last, in place; inputs then follow by themselves."""
        return self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - not in torch's stub

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior, before shift and scale; each [B, z, H/8, W/8]. For training."""
        mean, logvar = self.encoder(self._input(pixels)).chunk(2, dim=1)
        return mean, logvar

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Pixels → the transformer's latents: the posterior's mean, or with `noise` (latents' shape) a sample of it."""
        mean, logvar = self.moments(pixels)
        z = mean if noise is None else mean + torch.exp(0.5 * logvar) * noise
        return self.params.scale_factor * (z - self.params.shift_factor)

    def decode(self, latents: Tensor) -> Tensor:
        """The transformer's latents → pixels, about -1..1, not clamped."""
        return self.decoder(self._input(latents / self.params.scale_factor + self.params.shift_factor))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decode(self.encode(pixels))

    def _input(self, x: Tensor) -> Tensor:
        weight = self.encoder.conv_in.weight
        layout = (
            torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        )
        return x.to(weight.dtype).contiguous(memory_format=layout)
