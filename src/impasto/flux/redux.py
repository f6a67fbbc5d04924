"""Redux: a picture as words. SigLIP sees it as 729 tokens, two linears turn them into text states of the transformer.

In: pixels. Out: states [1, 729, 4096], which the pipeline puts behind the prompt's. The image encoder runs through
`transformers`; the picture is made 384 pixels a side, stretched, as its processor does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.flux import shapes, weights
from impasto.flux.checkpoint import Checkpoint
from impasto.flux.models import ReduxParams
from impasto.flux.stored import Tensors
from impasto.flux.t5clip import NOT_OURS, Renamed, config_beside, fill_positions

if TYPE_CHECKING:
    from transformers import SiglipVisionModel

TOWER = "vision_model."


class Projector(nn.Module):
    """SigLIP's channels → those of T5. Attribute names are the keys of `flux1-redux-dev.safetensors`."""

    def __init__(self, params: ReduxParams) -> None:
        super().__init__()
        self.redux_up = nn.Linear(params.hidden_size, 3 * params.out_features)
        self.redux_down = nn.Linear(3 * params.out_features, params.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.redux_down(F.silu(self.redux_up(x)))


class Redux:
    """Both networks. `size`: pixels a side that the encoder sees."""

    def __init__(self, encoder: SiglipVisionModel, projector: Projector, *, size: int) -> None:
        self.encoder = encoder
        self.projector = projector
        self._size = size

    @classmethod
    def load(cls, checkpoint: Checkpoint, target: weights.Target) -> Redux:
        """From a checkpoint that has both parts (`checkpoint.redux`). Raises WeightsError."""
        params = params_of(checkpoint)
        name = str(checkpoint.path("image_encoder"))
        encoder = weights.build(lambda: new_encoder(params), encoder_tensors(checkpoint), name=name, target=target)
        projector = weights.build(
            lambda: Projector(params), checkpoint.tensors("redux"), name=str(checkpoint.path("redux")), target=target
        )
        return cls(fill_positions(encoder, params.tokens, target), projector, size=params.image_size)

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pixels [H, W, 3] → text states [1, tokens, out_features]."""
        small = Image.fromarray(pixels).resize((self._size, self._size), Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5)
        weight = self.projector.redux_up.weight
        return self.projector(self.encoder(values.to(weight.device, weight.dtype)).last_hidden_state)


def new_encoder(params: ReduxParams) -> SiglipVisionModel:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=params.hidden_size,
            intermediate_size=params.intermediate_size,
            num_hidden_layers=params.num_layers,
            num_attention_heads=params.num_heads,
            image_size=params.image_size,
            patch_size=params.patch_size,
        )
    )


def params_of(checkpoint: Checkpoint) -> ReduxParams:
    bare = Renamed(checkpoint.tensors("image_encoder"), prefix=TOWER, left_out=NOT_OURS)
    return shapes.redux(bare, checkpoint.tensors("redux"), config_beside(checkpoint.path("image_encoder")))


def encoder_tensors(checkpoint: Checkpoint) -> Tensors:
    """SigLIP's vision tower under the keys that this release of transformers gives it."""
    with weights.on_meta():
        small = ReduxParams(hidden_size=4, intermediate_size=4, num_heads=1, num_layers=1, image_size=2, patch_size=1)
        ours = next(iter(new_encoder(small).state_dict()))
    wanted = TOWER if ours.startswith(TOWER) else ""
    return Renamed(checkpoint.tensors("image_encoder"), prefix=TOWER, wanted=wanted, left_out=NOT_OURS)
