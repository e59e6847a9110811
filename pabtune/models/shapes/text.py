"""The text encoder of the embedded model: one learned vector per word, regardless of word order."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pabtune.models.shapes.captions import split_words
from pabtune.records.errors import PromptError


class WordEncoder(ModelMixin, ConfigMixin):
    """Text encoder that looks words up in a table.

    Args:
        vocabulary: the words, in the order of the table.
        channels: E, width of a word vector.
        max_length: L, longest prompt in words.
    """

    @register_to_config
    def __init__(self, vocabulary: Sequence[str], channels: int, max_length: int) -> None:
        super().__init__()
        self.table = nn.Embedding(len(vocabulary), channels)
        self._index = {word: index for index, word in enumerate(vocabulary)}

    def forward(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word vectors (B, L, E), zero after the end of a prompt, and mask (B, L), 1 for words and 0 for padding.

        Raises:
            PromptError: a prompt has no words, an unknown word, or more than L words.
        """
        length = self.config.max_length
        ids_BL = torch.zeros(len(prompts), length, dtype=torch.long)
        mask_BL = torch.zeros(len(prompts), length, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            words = split_words(prompt)
            unknown = [word for word in words if word not in self._index]
            if unknown:
                raise PromptError(f"unknown word {unknown[0]!r} in the prompt {prompt!r}")
            if not 0 < len(words) <= length:
                raise PromptError(f"a prompt must have 1 to {length} words, but {prompt!r} has {len(words)}")
            ids_BL[row, : len(words)] = torch.tensor([self._index[word] for word in words])
            mask_BL[row, : len(words)] = 1
        device = self.table.weight.device
        mask_BL = mask_BL.to(device)
        return self.table(ids_BL.to(device)) * mask_BL[..., None], mask_BL
