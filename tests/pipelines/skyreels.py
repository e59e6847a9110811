"""SkyReels-V2: all frames at once, and diffusion forcing with one timestep per frame."""

import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Pipeline, SkyReelsV2Transformer3DModel

from tests.pipelines.parts import Case, t5, tokenizer
from tests.pipelines.wan import CALL, scheduler, vae


def transformer(**changes) -> SkyReelsV2Transformer3DModel:
    torch.manual_seed(0)
    arguments = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16,
        "out_channels": 16, "text_dim": 32, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32,
    }  # fmt: skip
    return SkyReelsV2Transformer3DModel(**arguments | changes).eval()


def skyreels() -> SkyReelsV2Pipeline:
    return SkyReelsV2Pipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), transformer=transformer(), vae=vae(), scheduler=scheduler()
    )


def diffusion_forcing() -> SkyReelsV2DiffusionForcingPipeline:
    return SkyReelsV2DiffusionForcingPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), transformer=transformer(inject_sample_info=True),
        vae=vae(), scheduler=scheduler(),
    )  # fmt: skip


SITES = {"full": 2, "cross": 2, "mlp": 2}
BOTH = frozenset({("transformer", "cond"), ("transformer", "uncond")})

CASES = {
    "skyreels-v2": Case(build=skyreels, call=CALL, sites=SITES, branches=BOTH),
    "skyreels-v2-forcing-long": Case(
        takes_batches=False,
        build=diffusion_forcing,
        call=CALL | {"num_frames": 29, "base_num_frames": 13, "overlap_history": 5},
        sites=SITES,
        branches=BOTH,
        loops=3,
    ),
    "skyreels-v2-forcing-asynchronous": Case(
        takes_batches=False,
        build=diffusion_forcing,
        call=CALL | {"num_frames": 21, "ar_step": 2, "causal_block_size": 2},
        sites=SITES,
        branches=BOTH,
        is_asynchronous=True,
    ),
}
