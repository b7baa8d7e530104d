"""The vocabulary of the captions: all their words whole, any prompt in pieces, nothing held out among
them."""
import numpy as np
import pytest

from recipe import captions, filters, vocabulary, world
from recipe.captions import SLOTS
from recipe.objects import HELD_OUT, HELD_OUT_STYLE
from weights.vocabularies import read_vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    vocabulary.write(path)
    return read_vocabulary(path)


def test_captions_are_whole_words(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(1500):
        scene = world.random_scene(rng, world.TRAINING)
        text = world.wording(rng, scene, not scene.named, scene.effect == world.NAMELESS)
        for slot in SLOTS:
            text = text.replace(slot, "")
        tokens = tokenizer.encode(text, add_special_tokens=False).tokens
        assert "[UNK]" not in tokens and not any(token.startswith("##") for token in tokens), text


def test_any_prompt_is_tokenized_and_what_is_held_out_is_no_word(tokenizer):
    assert vocabulary.tokens()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(vocabulary.tokens())) == len(vocabulary.tokens()) == tokenizer.get_vocab_size()
    for prompt in ("Zyzzyva #42, 'quoted' & 100% odd!?", "~`@$^*()_+-=[]{}|;:\"<>/\\", "Caf\u00e9"):
        assert "[UNK]" not in tokenizer.encode(prompt, add_special_tokens=False).tokens
    for name in (*HELD_OUT, HELD_OUT_STYLE, *filters.HELD_OUT):
        assert tokenizer.token_to_id(name) is None
        assert len(tokenizer.encode(name, add_special_tokens=False).tokens) > 2


def test_common_words_are_those_of_no_caption():
    assert len(set(vocabulary.COMMON)) == len(vocabulary.COMMON)
    assert not set(vocabulary.COMMON) & captions.words()


def test_it_is_the_same_each_time_and_written_whole(tmp_path, capsys):
    assert vocabulary.main(["--out", str(tmp_path / "new" / "vocab.txt")]) == 0
    assert (tmp_path / "new" / "vocab.txt").read_text() == "\n".join(vocabulary.tokens()) + "\n"
    (tmp_path / "file").touch()
    assert vocabulary.main(["--out", str(tmp_path / "file" / "vocab.txt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
