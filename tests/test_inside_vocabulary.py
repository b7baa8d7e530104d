"""The map of the vocabulary: nearest words are words, axes are the path's own, and norms are compared."""
import pytest
import torch
import torch.nn.functional as F

import textinv
import weights
from ldm import InputError
from textinv.inside.map_page import map_page, summary
from textinv.inside.vocabulary import map_vocabulary, read_path, word_table


@pytest.fixture(scope="module")
def model():
    return weights.load("tiny")


@pytest.fixture(scope="module")
def table(model):
    names, vectors = word_table(model)
    return dict(zip(names, vectors, strict=True))


def test_words_are_words(model):
    names, vectors = word_table(model)
    assert all(name.isalpha() and len(name) > 1 for name in names)
    assert len(names) == len(vectors) and {"dog", "beach"} <= set(names)


def test_nearest_over_time(model, table):
    """From one word to another, the nearest changes half-way."""
    steps = list(range(0, 101, 5))
    share = torch.tensor(steps)[:, None] / 100
    found = map_vocabulary(model, (1 - share) * table["dog"] + share * table["beach"], steps)
    (first, word, cosine), *_, (_, last, _) = found.changes()
    assert (first, word, last) == (0, "dog", "beach") and cosine == pytest.approx(1)
    assert [words[0][0] for words in found.nearest][-1] == "beach"
    assert {"dog", "beach"} <= set(found.words)


def test_the_plane_is_that_of_the_path(model, table):
    """A path within a plane keeps its distances, and its two axes explain all of it."""
    width = len(table["dog"])
    axes = torch.linalg.qr(torch.randn(width, 2, generator=torch.Generator().manual_seed(0))).Q.T
    flat = torch.randn(12, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([3.0, 1.0])
    found = map_vocabulary(model, flat @ axes, list(range(12)))
    torch.testing.assert_close(torch.cdist(found.path, found.path), torch.cdist(flat, flat),
                               rtol=1e-3, atol=1e-3)
    assert sum(found.explained) == pytest.approx(1, abs=1e-4)
    assert found.explained[0] > found.explained[1]
    assert found.path.mean(dim=0).abs().max() < 1e-4


def test_words_lie_where_the_path_meets_them(model, table):
    """A word that the path visits has its place on the path."""
    path = torch.stack([table["dog"], table["cat"], table["beach"]])
    found = map_vocabulary(model, path, [0, 1, 2])
    places = dict(zip(found.words, found.places, strict=True))
    for word, point in zip(("dog", "cat", "beach"), found.path, strict=True):
        torch.testing.assert_close(places[word], point, rtol=1e-3, atol=1e-3)


def test_norm_against_the_vocabulary(model, table):
    norms = torch.stack(list(table.values())).norm(dim=1)
    direction = F.normalize(table["dog"], dim=0)
    for norm, rank in ((norms.max() * 2, 1.0), (norms.min() / 2, 0.0), (norms.median() + 1e-5, 0.5)):
        found = map_vocabulary(model, torch.stack([table["cat"], norm * direction]), [0, 9])
        assert found.rank == pytest.approx(rank, abs=0.01)
        assert ("outside the shell" in summary(found)) == (rank in (0.0, 1.0))


def test_two_points_are_enough(model, table):
    found = map_vocabulary(model, torch.stack([table["dog"], 3 * table["cat"]]), [0, 200])
    assert found.path.isfinite().all() and found.places.isfinite().all()
    assert found.explained[0] == pytest.approx(1, abs=1e-4)
    assert found.places.std(dim=0).min() > 0                                 # the second axis is the words'


@pytest.mark.parametrize("shape", [(1, 192), (5, 7), (192,)])
def test_not_a_path(model, shape):
    with pytest.raises(InputError, match="path has shape"):
        map_vocabulary(model, torch.zeros(shape), list(range(shape[0])))


def test_page_is_one_file_and_escapes(model, table):
    found = map_vocabulary(model, torch.stack([table["dog"], table["cat"], 2 * table["cat"]]), [0, 1, 2])
    page = map_page("<script>", {"v": found})
    assert page.count("<svg") == 2 and "<script>" not in page and "&lt;script&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")               # nothing to fetch


def test_path_of_a_run_and_of_a_file(learned):
    """The fixture's run has three steps, none measured: only start and end are known, as for a file."""
    concept = textinv.Concept.load(learned)
    for source in (learned, learned / "concept.safetensors"):
        points, steps = read_path(source, concept)
        assert steps == [0, 3] and torch.equal(points[1], concept.vectors)
        assert torch.equal(points[0], torch.tensor(concept.info["init_vectors"]))
    with pytest.raises(InputError, match="does not say where its word started"):
        read_path(learned / "concept.safetensors", textinv.Concept("*", concept.vectors))
