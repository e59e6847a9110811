"""Saved and loaded pipelines."""

import copy
from functools import cache
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from tests.pipelines.cases import CASES


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folders of saved pipelines by name of the case."""
    root = tmp_path_factory.mktemp("pipelines")

    @cache
    def folder(name: str) -> Path:
        CASES[name].build().save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def load(saved):
    @cache
    def from_file(name: str) -> DiffusionPipeline:
        pipeline = CASES[name].loader.from_pretrained(saved(name))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def loaded(name: str) -> DiffusionPipeline:
        # Weights from a file lie at odd addresses, those of a copy do not: some processors then add in another order.
        return copy.deepcopy(from_file(name))

    return loaded
