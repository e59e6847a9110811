"""What each of VBench's dimensions looks at and needs: its network, files, packages, and annotated prompts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pabtune.records.errors import VbenchError
from pabtune.vbench.aggregate import SCALES


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One of VBench's 16 dimensions.

    Attributes:
        name: as VBench spells it.
        network: in words.
        files: names of its weight files.
        reads: `frames`, `prompt` (its text as well), or `annotation` (what VBench's own prompts say of it; other prompts
            cannot be scored).
        package: what it needs beside VBench's own requirements; empty = nothing.
        unit: a per-video value times this is on the scale of the dimension's mean.
        may_abstain: VBench leaves out videos in which it does not find what it looks for.
        videos_at_once: how many are scored between two records; the network is loaded once for them.
    """

    name: str
    network: str
    files: tuple[str, ...] = ()
    reads: str = "frames"
    package: str = ""
    unit: float = 1.0
    may_abstain: bool = False
    videos_at_once: int = 8


_BERT = tuple(f"bert-base-uncased/{name}" for name in ("config.json", "tokenizer_config.json", "vocab.txt"))
_GRIT = ("grit_model/grit_b_densecap_objectdet.pth", *_BERT)
_VICLIP = ("ViCLIP/ViClip-InternVid-10M-FLT.pth", "ViCLIP/bpe_simple_vocab_16e6.txt.gz")
_DINO = (
    "dino_model/dino_vitbase16_pretrain.pth",
    *(f"dino_model/facebookresearch_dino_main/{name}" for name in ("hubconf.py", "utils.py", "vision_transformer.py")),
)


def _of_grit(name: str, may_abstain: bool = False) -> Dimension:
    return Dimension(
        name=name, network="GRiT", files=_GRIT, reads="annotation", package="detectron2", may_abstain=may_abstain
    )


_DIMENSIONS = (
    Dimension(name="subject_consistency", network="DINO ViT-B/16", files=_DINO),
    Dimension(name="background_consistency", network="CLIP ViT-B/32", files=("clip_model/ViT-B-32.pt",)),
    Dimension(name="temporal_flickering", network="none", videos_at_once=1),
    Dimension(name="motion_smoothness", network="AMT-S", files=("amt_model/amt-s.pth",)),
    Dimension(name="dynamic_degree", network="RAFT", files=("raft_model/models/raft-things.pth",)),
    Dimension(
        name="aesthetic_quality",
        network="CLIP ViT-L/14 and a linear head",
        files=("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    ),
    Dimension(name="imaging_quality", network="MUSIQ", files=("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",), unit=0.01),
    _of_grit("object_class"),
    _of_grit("multiple_objects"),
    Dimension(
        name="human_action",
        network="UMT-L/16",
        files=("umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",),
        reads="annotation",
    ),
    _of_grit("color", may_abstain=True),
    _of_grit("spatial_relationship"),
    Dimension(
        name="scene",
        network="Tag2Text",
        files=("caption_model/tag2text_swin_14m.pth", *_BERT, "bert-base-uncased/model.safetensors"),
        reads="annotation",
    ),
    Dimension(name="appearance_style", network="CLIP ViT-B/32", files=("clip_model/ViT-B-32.pt",), reads="annotation"),
    Dimension(name="temporal_style", network="ViCLIP", files=_VICLIP, reads="prompt"),
    Dimension(name="overall_consistency", network="ViCLIP", files=_VICLIP, reads="prompt"),
)

DIMENSIONS: Mapping[str, Dimension] = {dimension.name: dimension for dimension in _DIMENSIONS}
"""All dimensions by name, in the order of VBench's tables."""

FOR_ANY_PROMPT = tuple(name for name in SCALES if DIMENSIONS[name].reads != "annotation")
"""Dimensions that take videos of prompts that are not VBench's own."""


STATIC_FILTER = Dimension(name="static_filter", network="RAFT", files=("raft_model/models/raft-things.pth",))
"""VBench's filter for static videos: 1 = static, else 0. No dimension: it chooses whose flicker counts."""

STATIC_PER_PROMPT = 5
"""Static videos of a prompt that VBench counts, the first ones of the 25 that its protocol generates."""


def find_dimensions(names: Iterable[str]) -> list[Dimension]:
    """Dimensions by name, each once, in the tables' order.

    Raises:
        VbenchError: there is no such dimension.
    """
    wanted = set(names)
    unknown = sorted(wanted - set(DIMENSIONS))
    if unknown:
        raise VbenchError(f"VBench has no dimension {unknown[0]!r}; it has {', '.join(DIMENSIONS)}")
    return [dimension for dimension in _DIMENSIONS if dimension.name in wanted]
