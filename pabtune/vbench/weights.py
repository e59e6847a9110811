"""The files that VBench's networks load: name, origin, size and checksum of each; whether one is there; downloading it.

All lie in one folder, under the names that VBench 0.1.5 looks for. Licences are their authors'; nothing is shipped.
"""

import hashlib
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from pabtune.records.errors import FileError, VbenchError, first_line
from pabtune.records.files import write_atomically

DINO_CODE = "https://raw.githubusercontent.com/facebookresearch/dino/7c446df5b9f45747937fb0d72314eb9f7b66930a"
CLIP = "https://openaipublic.azureedge.net/clip/models"
HUB = "https://huggingface.co"

TIMEOUT_S = 60
"""Without a byte for so long, a download has failed."""

CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """A file that some dimensions need.

    Attributes:
        name: its path below the folder of weights.
        url: where it comes from; of an archive, see `member`.
        sha256: checksum, or its beginning where only that is published; empty = unknown, then the lock file keeps that of the
            first copy.
        megabytes: about, 10^6 bytes; None = unknown.
        member: name of the file inside the ZIP archive at `url`; empty = the file itself is there.
    """

    name: str
    url: str
    sha256: str = ""
    megabytes: float | None = None
    member: str = ""

    def size(self) -> str:
        """Its size in words."""
        return "size unknown" if self.megabytes is None else f"about {self.megabytes:g} MB"


_FILES = (
    WeightFile(
        name="dino_model/dino_vitbase16_pretrain.pth",
        url="https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        megabytes=343,
    ),
    *(
        WeightFile(name=f"dino_model/facebookresearch_dino_main/{name}", url=f"{DINO_CODE}/{name}", megabytes=0.1)
        for name in ("hubconf.py", "utils.py", "vision_transformer.py")
    ),
    WeightFile(
        name="clip_model/ViT-B-32.pt",
        url=f"{CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        megabytes=354,
    ),
    WeightFile(
        name="clip_model/ViT-L-14.pt",
        url=f"{CLIP}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        megabytes=933,
    ),
    WeightFile(
        name="amt_model/amt-s.pth", url=f"{HUB}/lalala125/AMT/resolve/main/amt-s.pth", megabytes=12,
    ),
    WeightFile(
        name="raft_model/models/raft-things.pth",
        url="https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
        sha256="fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
        megabytes=21,
        member="models/raft-things.pth",
    ),
    WeightFile(
        name="aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
        url="https://raw.githubusercontent.com/LAION-AI/aesthetic-predictor/main/sa_0_4_vit_l_14_linear.pth",
        megabytes=0.01,
    ),
    WeightFile(
        name="pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
        url="https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
        sha256="358bb6af",  # torch hub's convention: the name ends in the beginning of the checksum
        megabytes=109,
    ),
    WeightFile(
        name="grit_model/grit_b_densecap_objectdet.pth",
        url=f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/grit_b_densecap_objectdet.pth",
    ),
    WeightFile(
        name="caption_model/tag2text_swin_14m.pth",
        url=f"{HUB}/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth",
        megabytes=4500,
    ),
    *(
        WeightFile(
            name=f"bert-base-uncased/{name}",
            url=f"{HUB}/google-bert/bert-base-uncased/resolve/main/{name}",
            megabytes=megabytes,
        )
        for name, megabytes in (
            ("config.json", 0.001), ("tokenizer_config.json", 0.001), ("vocab.txt", 0.2), ("model.safetensors", 440),
        )
    ),
    WeightFile(
        name="umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
        url=f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/l16_ptk710_ftk710_ftk400_f16_res224.pth",
    ),
    WeightFile(
        name="ViCLIP/ViClip-InternVid-10M-FLT.pth",
        url=f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth",
    ),
    WeightFile(
        name="ViCLIP/bpe_simple_vocab_16e6.txt.gz",
        url="https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
        sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
        megabytes=1.4,
    ),
)  # fmt: skip

WEIGHT_FILES: Mapping[str, WeightFile] = {file.name: file for file in _FILES}
"""All files by name."""


def problem_of(file: WeightFile, folder: Path, locked: str = "") -> str | None:
    """What is wrong with a file in words, or None.

    Args:
        file: which.
        folder: of the weights.
        locked: checksum from the lock file, for a file whose checksum is not published; empty = none.
    """
    path = folder / file.name
    if not path.is_file():
        return "is missing"
    expected = locked if not file.sha256 or locked.startswith(file.sha256) else file.sha256
    actual = sha256_of(path)
    if actual.startswith(expected):
        return None
    known = "published" if expected == file.sha256 else "that lock.json has of it"
    return (
        f"has another checksum, {actual[:12]}…, than the one {known}, {expected[:12]}…: cut short, or another version"
    )


def sha256_of(path: Path) -> str:
    """Checksum of a file's bytes, 64 hexadecimal digits.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror}") from error


def download(file: WeightFile, folder: Path) -> None:
    """Downloads a file into the folder of weights; what is there afterwards is complete.

    Raises:
        VbenchError: it cannot be reached, broke off, or has another checksum than the published one.
        FileError: the folder cannot be written to.
    """
    write_atomically(folder / file.name, lambda partial: _download_to(file, partial))


def _download_to(file: WeightFile, path: Path) -> None:
    with path.open("wb") as target:
        for block in _blocks(file.url):
            target.write(block)
    if file.member:
        _unpack(file, path)
    actual = sha256_of(path)
    if not actual.startswith(file.sha256):
        raise VbenchError(f"{file.url}: has the checksum {actual}, but must have {file.sha256}")


def _blocks(url: str) -> Iterator[bytes]:
    """What is at a URL, piece by piece; errors of the network are told from those of the disk here."""
    length, received = None, 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            length = answer.headers.get("Content-Length")
            while block := answer.read(CHUNK_BYTES):
                received += len(block)
                yield block
    except (OSError, HTTPException) as error:
        raise VbenchError(f"{url}: cannot be downloaded: {first_line(error)}") from error
    if length is not None and received != int(length):
        raise VbenchError(f"{url}: the download broke off at {received} of {length} bytes")


def _unpack(file: WeightFile, path: Path) -> None:
    """Replaces an archive by its member."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(file.member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise VbenchError(f"{file.url}: no ZIP archive with {file.member}: {first_line(error)}") from error
    path.write_bytes(content)
