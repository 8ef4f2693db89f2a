"""The text encoder and the UNet that the denoiser step trains."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .config import Config


class Model(nn.Module):
    """Text encoder and UNet as one trainable thing."""

    def __init__(self, config: Config, tokenizer: CLIPTokenizer, text: CLIPTextModel | None = None) -> None:
        super().__init__()
        self.text = text or build_text(config, tokenizer)
        # Pixel by pixel in memory, as the convolutions of CPUs and GPUs alike prefer it.
        self.unet = build_unet(config).to(memory_format=torch.channels_last)

    def forward(self, noisy: torch.Tensor, time: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Prediction of shape (n, 4, side, side) for latents of that shape, times (n,), tokens (n, length)."""
        return self.unet(noisy, time, self.text(tokens).last_hidden_state).sample

    def plain_attention(self) -> None:
        """Use unfused attention: on CPUs the backward pass of the fused kernel costs a quarter of a step."""
        self.unet.set_attn_processor(AttnProcessor())
        self.text.set_attn_implementation("eager")


def build_text(config: Config, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    words = config.text
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=words.width,
            intermediate_size=4 * words.width,
            projection_dim=words.width,
            num_hidden_layers=words.layers,
            num_attention_heads=words.heads,
            max_position_embeddings=words.length,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(config: Config) -> UNet2DConditionModel:
    """The UNet, initialised.

    Besides cross-attention, it adds a pooled view of the words to its time embedding
    (``addition_embed_type="text"``), which scales and shifts every block's features (FiLM,
    arXiv:1709.07871): what is to be drawn is a property of the whole picture, and a network this
    small learns it that way far sooner than through attention alone.
    """
    ours = config.denoiser
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in ours.attends]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(ours.attends)]
    return UNet2DConditionModel(
        sample_size=config.latent_size,
        in_channels=config.autoencoder.latent_channels,
        out_channels=config.autoencoder.latent_channels,
        block_out_channels=ours.widths,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=config.text.width,
        attention_head_dim=tuple(max(1, width // ours.head_width) for width in ours.widths),
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=config.text.heads,
    )


@torch.no_grad()
def centre_words(model: Model, tokens: torch.Tensor) -> None:
    """Shift the pooled words so that their mean over these captions, tokens (n, length), is zero.

    Most of a caption is padding, so pooled captions begin nearly alike, and the normalization behind keeps
    what they share. Without the shared part it is what tells one caption from another that fills the unit
    deviation, and names are learned several times sooner.
    """
    pooled = model.unet.add_embedding
    words = model.text(tokens).last_hidden_state
    pooled.proj.bias -= pooled.proj(pooled.pool(pooled.norm1(words))).mean(0)
