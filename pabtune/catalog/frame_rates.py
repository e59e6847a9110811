"""Frames per second of the videos that pipelines make, by the class of the pipeline.

A rate is the one that diffusers' examples write files with (the docstrings of its pipelines). Those of HunyuanVideo, whose
example says 15, of Mochi, Latte and Open-Sora Plan are what these models are known for, and were not checked. Nothing in a
pipeline says it, and VBench's `dynamic_degree` depends on it.
"""

from collections.abc import Mapping

USUAL_RATE = 8
"""Of pipelines that are not known."""

FRAME_RATES: Mapping[str, int] = {
    "Allegro": 15,
    "AnyFlow": 16,
    "ChronoEdit": 16,
    "CogVideoX": 8,
    "ConsisID": 8,
    "Cosmos": 30,
    "Cosmos2": 16,
    "Cosmos2_5_Transfer": 30,
    "EasyAnimate": 8,
    "Helios": 24,
    "Hunyuan": 24,
    "HunyuanVideoFramepack": 30,
    "Kandinsky": 24,
    "LTX": 24,
    "Latte": 8,
    "Lucy": 24,
    "Mochi": 30,
    "Motif": 24,
    "OpenSoraPlan": 24,
    "SanaVideo": 16,
    "SanaImageToVideo": 16,
    "Shapes": 8,
    "SkyReels": 24,
    "Wan": 16,
    "WanAnimate": 30,
}
"""By the beginning of the class's name; the longest counts."""


def usual_rate(pipeline: str) -> int:
    """Frames per second of a pipeline's videos.

    Args:
        pipeline: name of its class.
    """
    known = [name for name in FRAME_RATES if pipeline.startswith(name)]
    return FRAME_RATES[max(known, key=len)] if known else USUAL_RATE
