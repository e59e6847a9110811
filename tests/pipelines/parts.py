"""Small real components: tokenizers and text encoders of the real classes, with random weights."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

PROMPT = "a cat runs over the hill"
OTHER_PROMPT = "two boats on a calm lake at night"
NEGATIVE_PROMPT = "blurry"


@dataclass(frozen=True)
class Case:
    """A small pipeline of a real class.

    Attributes:
        build: makes the pipeline; the same weights every time.
        call: arguments of a short call besides prompt and generator, with `num_inference_steps` and `output_type`.
        sites: number of sites per kind.
        branches: branches that one run shows, as (transformer, branch).
        takes_prompt: False where the prompt is part of `call`.
        loops: denoising loops in one call.
        loader: loads the saved pipeline; its own class where `DiffusionPipeline` does not know it.
        is_asynchronous: frames are denoised one after the other: there is no step that all of a call is at.
        takes_batches: takes several prompts in one call.
        batch: further arguments of a call with two prompts.
        inner_lengths: text lengths that only the network itself knows, by its masks.
    """

    build: Callable[[], DiffusionPipeline]
    call: Mapping[str, Any]
    sites: Mapping[str, int]
    branches: frozenset[tuple[str, str]]
    takes_prompt: bool = True
    loops: int = 1
    loader: type[DiffusionPipeline] = DiffusionPipeline
    is_asynchronous: bool = False
    takes_batches: bool = True
    batch: Mapping[str, Any] = field(default_factory=dict)
    inner_lengths: int = 1


def tokenizer(max_length: int = 16) -> PreTrainedTokenizerFast:
    """Letters as tokens, `</s>` at the end: enough to tell prompts apart."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *string.ascii_lowercase, "▁"])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    plain.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=max_length,  # noqa: S106
    )  # fmt: skip


def t5(width: int = 32, kind: str = "t5") -> torch.nn.Module:
    """A T5 or UMT5 encoder of two layers."""
    config_class, model_class = {"t5": (T5Config, T5EncoderModel), "umt5": (UMT5Config, UMT5EncoderModel)}[kind]
    torch.manual_seed(0)
    config = config_class(
        vocab_size=32, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    return model_class(config).eval()
