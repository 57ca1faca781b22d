"""The conditioner of models that are given text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Optional

from mindspore import Tensor, nn, ops
from numpy.typing import ArrayLike

from svd.conditioning.conditioning import Conditioning, Labels
from svd.conditioning.tokenizer import Tokenizer
from svd.errors import ConfigError, check


class TextConditioner:
    """Prompts -> Conditioning (Stable Diffusion, arXiv 2112.10752; VideoLDM, arXiv 2304.08818).

    Args:
        text_encoder: tokens, int32 [b n] -> embeddings [b n d]; for spatial layers, and for all if it is the only one.
        tokenizer: prompts -> tokens.
        temporal_text_encoder: for temporal layers, if the spatial ones are those of another image model.
        labels: what temporal layers are told beside the text, if they are.
    """

    def __init__(
        self,
        text_encoder: nn.Cell,
        tokenizer: Tokenizer,
        temporal_text_encoder: Optional[nn.Cell] = None,
        labels: Optional[Labels] = None,
    ):
        self.text_encoder, self.temporal_text_encoder = text_encoder, temporal_text_encoder
        self.tokenizer, self.labels = tokenizer, labels

    def __call__(
        self, prompts: Sequence[str], fps: Optional[ArrayLike] = None, motion_bucket_id: Optional[ArrayLike] = None
    ) -> Conditioning:
        """The conditioning of b clips, of a prompt each; warns of prompts that are cut.

        Args:
            prompts: b texts.
            fps, motion_bucket_id: one for all clips or [b], if the network is conditioned on it.

        Raises:
            PromptError: a prompt is no text.
        """
        tokens, cut = self.tokenizer(prompts)
        for message in cut:
            warnings.warn(message, stacklevel=2)
        tokens = Tensor(tokens)
        of_time = None if self.temporal_text_encoder is None else encode(self.temporal_text_encoder, tokens)
        vector = None if self.labels is None else self.labels(len(prompts), fps, motion_bucket_id)
        return Conditioning(encode(self.text_encoder, tokens), vector=vector, temporal_context=of_time)

    def pair(
        self,
        prompts: Sequence[str],
        negative_prompts: Optional[Sequence[str]] = None,
        fps: Optional[ArrayLike] = None,
        motion_bucket_id: Optional[ArrayLike] = None,
    ) -> tuple[Conditioning, Conditioning]:
        """(cond, uncond): uncond has negative prompts, one for each prompt, or empty ones, in place of the prompts."""
        negative = [""] * len(prompts) if negative_prompts is None else negative_prompts
        check(
            len(negative) == len(prompts),
            f"negative_prompts must be as many as prompts, got {len(negative)} for {len(prompts)}",
            ConfigError,
        )
        return self(prompts, fps, motion_bucket_id), self(negative, fps, motion_bucket_id)


def encode(text_encoder: nn.Cell, tokens: Tensor) -> Tensor:
    """Embeddings of tokens [b n], row by row: the graph for one prompt serves any number of them. [b n d]"""
    return ops.cat([text_encoder(tokens[i : i + 1]) for i in range(tokens.shape[0])])
