"""A closed-form encoder: the block transform that loses least, written into the weights of a FLUX encoder.

A learned encoder takes hours on a CPU before its latents are worth modelling. The best *linear* map from blocks of
8x8 pixels to 16 numbers is known at once (principal components), and the FLUX encoder can compute it exactly: its
residual branches are switched off, its strided convolutions gather the block, and where a normalisation and a SiLU
stand in the way, each component passes twice, as +p and -p, because silu(p) - silu(-p) = p. Large constant channels
beside them hold the normalisation's divisor still. The result is an ordinary checkpoint: whoever has the time may
train on from here.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.flux.autoencoder import AttnBlock, Encoder, ResnetBlock
from impasto.flux.models import AutoencoderParams

BLOCK = 8
_STEADY = 30.0
"""Size of the constant channels, in standard deviations of the components beside them."""


@dataclass(frozen=True, slots=True)
class BlockPCA:
    """The map: latents = (blocks - mean) @ basis.T * gain.

    `mean` [192]: the mean block; `basis` [z, 192]: orthonormal rows, most variance first; `gain` [z]: the scale of each
    component. A block is 3x8x8 pixels in -1..1, flattened (colour, row, column).
    """

    mean: Tensor
    basis: Tensor
    gain: Tensor

    def save(self, path: Path) -> None:
        """Write the three tensors as safetensors."""
        tensors = {"mean": self.mean, "basis": self.basis, "gain": self.gain}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> "BlockPCA":
        """Read what `save` wrote."""
        return cls(**load_file(path))

    def to(self, device: str) -> "BlockPCA":
        """The same map on another device."""
        return BlockPCA(self.mean.to(device), self.basis.to(device), self.gain.to(device))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in -1..1 to latents [B, z, H/8, W/8]."""
        height, width = pixels.shape[-2] // BLOCK, pixels.shape[-1] // BLOCK
        blocks = F.unfold(pixels.contiguous(), BLOCK, stride=BLOCK) - self.mean[:, None]
        latents = (self.basis * self.gain[:, None]) @ blocks
        return latents.unflatten(2, (height, width))

    def decode(self, latents: Tensor) -> Tensor:
        """The best linear reconstruction: latents [B, z, h, w] to pixels [B, 3, 8h, 8w]."""
        height, width = latents.shape[-2] * BLOCK, latents.shape[-1] * BLOCK
        blocks = (self.basis / self.gain[:, None]).T @ latents.flatten(2) + self.mean[:, None]
        return F.fold(blocks, (height, width), BLOCK, stride=BLOCK)


def fit(pixels: Tensor, components: int, *, whitening: float = 0.5) -> BlockPCA:
    """Fit the map to pictures [B, 3, H, W] in -1..1.

    `whitening` 0 leaves the components as they are, 1 gives all the same variance; between, coarse ones stay larger,
    so that they rise out of the noise first. The mean variance of the latents is 1 in every case. The basis is chosen
    within the span that the encoder's narrow channels can carry (see `write`).
    """
    blocks = F.unfold(pixels.contiguous().double(), BLOCK, stride=BLOCK).transpose(1, 2).flatten(0, 1)
    mean = blocks.mean(0)
    covariance = (blocks - mean).T @ (blocks - mean) / blocks.shape[0]
    span = _quarter_span(covariance)
    variance, directions = torch.linalg.eigh(span @ covariance @ span.T)
    variance, directions = variance.flip(0)[:components], directions.flip(1)[:, :components]
    basis = directions.T @ span
    deviation = variance.clamp_min(1e-12).sqrt()
    scaled = deviation ** (1.0 - whitening)
    gain = deviation**-whitening / scaled.square().mean().sqrt()
    return BlockPCA(mean.float(), basis.float(), gain.float())


def _quarter_basis(covariance: Tensor) -> Tensor:
    """Orthonormal [32, 48]: the best 32 components of the four 4x4 quarters of a block, taken together."""
    joint = covariance.reshape(3, 2, 4, 2, 4, 3, 2, 4, 2, 4)
    pooled = torch.einsum("cyaxbdyexf->cabdef", joint).reshape(48, 48)
    return torch.linalg.eigh(pooled)[1].flip(1)[:, :32].T.contiguous()


def _quarter_span(covariance: Tensor) -> Tensor:
    """Orthonormal rows [128, 192]: what is left of a block when each of its quarters keeps 32 numbers."""
    quarter = _quarter_basis(covariance).reshape(32, 3, 4, 4)
    span = torch.zeros(2, 2, 32, 3, 2, 4, 2, 4, dtype=covariance.dtype)
    for row in range(2):
        for column in range(2):
            span[row, column, :, :, row, :, column, :] = quarter
    return span.reshape(128, 192)


@torch.no_grad()
def write(encoder: Encoder, params: AutoencoderParams, pca: BlockPCA) -> None:
    """Overwrite an encoder's weights so that its mean is `pca.encode` and its variance is tiny.

    Needs four levels of at least 12, 32, 64 and 64 channels after the first, and two groups of the last norm that hold
    z/2 pairs and as many constants each; raises ValueError otherwise.
    """
    widths = [params.ch * mult for mult in params.ch_mult]
    components = params.z_channels
    group = widths[-1] // params.norm_groups
    if len(widths) != 4 or widths[0] < 12 or widths[1] < 32 or widths[2] < components or group < 2 * components:
        raise ValueError(
            f"an encoder of widths {widths} in {params.norm_groups} groups is too narrow for the block transform"
        )
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.zero_()
            assert module.bias is not None
            module.bias.zero_()
    for module in encoder.modules():
        # the branches are off at their last convolution only, so that a later training can move them
        if isinstance(module, ResnetBlock):
            nn.init.kaiming_uniform_(module.conv1.weight, a=5**0.5)
            if module.nin_shortcut is not None:
                _pass_through(module.nin_shortcut)
        if isinstance(module, AttnBlock):
            for conv in (module.q, module.k, module.v):
                nn.init.xavier_uniform_(conv.weight)
    _pass_through(encoder.conv_in)
    gather, quarters, whole = (_strided(encoder, level) for level in range(3))
    for colour in range(3):
        for row in range(2):
            for column in range(2):
                gather.weight[colour * 4 + row * 2 + column, colour, row, column] = 1.0
    quarter = _recover_quarters(pca)
    # a 4x4 quarter is 2x2 of the gathered 2x2 cells
    cells = quarter.reshape(32, 3, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(32, 12, 2, 2)
    quarters.weight[:32, :12, :2, :2] = cells
    blocks = pca.basis.reshape(components, 3, 2, 4, 2, 4)
    parts = torch.einsum("zcyaxb,qcab->zqyx", blocks, quarter.reshape(32, 3, 4, 4))
    deviation = 1.0 / pca.gain
    whole.weight[:components, :32, :2, :2] = parts / deviation[:, None, None, None]
    assert whole.bias is not None
    whole.bias[:components] = -(pca.basis @ pca.mean) * pca.gain
    _linear_end(encoder, components, group)


@torch.no_grad()
def read(encoder: Encoder, params: AutoencoderParams) -> BlockPCA:
    """The block transform that `write` has put into an encoder, recovered from what it does to plain pictures.

    The latents of a training set thus fit an autoencoder of which only the checkpoint is left.
    """
    units = torch.eye(3 * BLOCK * BLOCK).unflatten(1, (3, BLOCK, BLOCK))
    # a picture of one block would be all border to the last convolutions, so the unit sits in the middle of nine
    canvas = torch.zeros(len(units) + 1, 3, 3 * BLOCK, 3 * BLOCK)
    canvas[:-1, :, BLOCK : 2 * BLOCK, BLOCK : 2 * BLOCK] = units
    latents = encoder(canvas)[:, : params.z_channels, 1, 1].float()
    offset = latents[-1]
    basis_of = (latents[:-1] - offset).T
    gain = basis_of.norm(dim=1)
    basis = basis_of / gain[:, None]
    return BlockPCA(torch.linalg.lstsq(basis, -offset / gain).solution, basis, gain)


def _recover_quarters(pca: BlockPCA) -> Tensor:
    """An orthonormal [32, 48] whose span, in every quarter, holds the rows of the basis."""
    blocks = pca.basis.reshape(-1, 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 48)
    return torch.linalg.svd(blocks, full_matrices=False)[2][:32]


def _strided(encoder: Encoder, level: int) -> nn.Conv2d:
    step = encoder.down[level].get_submodule("downsample.conv")
    assert isinstance(step, nn.Conv2d)
    return step


def _pass_through(conv: nn.Conv2d) -> None:
    centre = conv.kernel_size[0] // 2
    for i in range(min(conv.in_channels, conv.out_channels)):
        conv.weight[i, i, centre, centre] = 1.0


def _linear_end(encoder: Encoder, components: int, group: int) -> None:
    """The last shortcut makes pairs and constants; norm_out and conv_out undo them."""
    last = encoder.down[3].get_submodule("block.0")
    assert isinstance(last, ResnetBlock)
    assert last.nin_shortcut is not None
    shortcut, norm, out = last.nin_shortcut, encoder.norm_out, encoder.conv_out
    shortcut.weight.zero_()
    assert shortcut.bias is not None
    assert out.bias is not None
    norm.weight.zero_()
    norm.bias.zero_()
    half = components // 2
    pairs = 2 * half
    constants = group - pairs
    constants -= constants % 2
    factor = (_STEADY**2 * constants / group) ** 0.5
    for which in range(2):
        base = which * group
        for i in range(half):
            component, plus, minus = which * half + i, base + 2 * i, base + 2 * i + 1
            shortcut.weight[plus, component], shortcut.weight[minus, component] = 1.0, -1.0
            norm.weight[plus], norm.weight[minus] = factor, factor
            out.weight[component, plus, 1, 1], out.weight[component, minus, 1, 1] = 1.0, -1.0
        for j in range(constants):
            assert shortcut.bias is not None
            shortcut.bias[base + pairs + j] = _STEADY if j % 2 else -_STEADY
    out.bias[components:] = -12.0
