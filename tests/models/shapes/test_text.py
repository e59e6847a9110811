import pytest
import torch

from pabtune.models.shapes.captions import VOCABULARY
from pabtune.models.shapes.text import WordEncoder
from pabtune.records.errors import PromptError


def test_words_become_vectors_and_a_mask() -> None:
    encoder = WordEncoder(VOCABULARY, 8, 5)
    text, mask = encoder(["a red square", "Red."])
    assert text.shape == (2, 5, 8)
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert (text[0, 1] == text[1, 0]).all()
    assert (text[1, 1:] == 0).all()


def test_save_and_load_keep_the_vocabulary(tmp_path) -> None:
    encoder = WordEncoder(("b", "a"), 4, 3)
    encoder.save_pretrained(tmp_path)
    again = WordEncoder.from_pretrained(tmp_path)
    torch.testing.assert_close(again(["a b"])[0], encoder(["a b"])[0])


def test_bad_prompts_are_refused() -> None:
    encoder = WordEncoder(VOCABULARY, 8, 3)
    with pytest.raises(PromptError, match="unknown word 'dog'"):
        encoder(["a dog"])
    with pytest.raises(PromptError, match="1 to 3 words"):
        encoder(["a red square moves left"])
