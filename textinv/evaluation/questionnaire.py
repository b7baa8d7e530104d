"""The user study (Gal et al. 2022, section 5.3, Figure 10(b)): people rank the images of the same thing from
several setups. One questionnaire asks for likeness to four of its training images, the other for agreement
with the prompt's text. The questions use the images of a finished suite. The key, a file that participants do
not see, records which setup made each image.
"""
from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm import InputError
from textinv.evaluation.cells import Result
from textinv.evaluation.evaluate import EDITS, PLAIN
from textinv.evaluation.points import interval
from textinv.evaluation.scores import Score, markdown

LIKENESS, AGREEMENT = "likeness", "agreement"
KINDS = (LIKENESS, AGREEMENT)
STUDY = ("ours", "2-word", "progressive", "low-lr", "long captions")        # five, as in the paper
MOST = 20                       # questions of each kind: a few minutes of a person's time
SHOWN = 4                       # training images


@dataclass(frozen=True)
class Question:
    """Candidate images of one thing, to be ranked. `setups` and `images` (paths relative to the suite's
    folder) are in the order shown."""
    id: str
    kind: str
    thing: str
    text: str                           # the prompt's; "" for likeness
    setups: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Questionnaire:
    """The questions, and the hash of each image by path."""
    questions: tuple[Question, ...]
    sha256: Mapping[str, str]

    @property
    def hash(self) -> str:
        """A hash that identifies this questionnaire."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def make(folder: Path, results: Sequence[Result], setups: Sequence[str], *, count: int, seed: int = 0
         ) -> Questionnaire:
    """Make a questionnaire from a suite's results: for each thing and seed one question of each kind, up to
    MOST, with one image per setup. The prompts, the images and the order of the candidates are sampled.

    count: number of images of each prompt.
    Raises InputError if the suite does not have all of these setups, or an image is missing."""
    found = {(one.setup, one.thing, one.seed): one for one in results if {PLAIN, *EDITS} <= {*one.samples}}
    places = sorted({(one.thing, one.seed) for one in results
                     if all((name, one.thing, one.seed) in found for name in setups)})
    if len(setups) < 2 or not places:
        raise InputError(f"{folder}: no thing has images from all of {', '.join(setups)}. Finish the suite, "
                         "or choose two or more with `setups`.")
    rng, questions = random.Random(seed), []
    for kind in KINDS:
        for i, (thing, own_seed) in enumerate(rng.sample(places, min(MOST, len(places)))):
            template = PLAIN if kind == LIKENESS else rng.choice(EDITS)
            order, number = rng.sample(list(setups), len(setups)), rng.randrange(count)
            images = tuple(f"samples/{found[name, thing, own_seed].samples[template]}/{number:04d}.png"
                           for name in order)
            text = "" if kind == LIKENESS else template.replace("{}", "something")
            questions.append(Question(f"{kind}-{i + 1}", kind, thing, text=text, setups=tuple(order),
                                      images=images))
    paths = {path for question in questions for path in question.images}
    return Questionnaire(tuple(questions), {path: _sha256(folder / path) for path in sorted(paths)})


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Delete that setup's cells, and run the "
                         "suite again.") from error


def key_path(page: Path) -> Path:
    """The path of a page's key."""
    return page.with_name(page.stem + ".key.json")


def key_text(questionnaire: Questionnaire) -> str:
    """The content of the key."""
    return json.dumps({"hash": questionnaire.hash, **asdict(questionnaire)}, indent=2) + "\n"


def read_key(page: Path) -> Questionnaire:
    """Read a page's questionnaire from its key. Raises InputError if the key is missing or damaged."""
    path = key_path(page)
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        questions = tuple(Question(**{**one, "setups": tuple(one["setups"]), "images": tuple(one["images"])})
                          for one in known["questions"])
        questionnaire = Questionnaire(questions, known["sha256"])
        is_whole = questionnaire.hash == known["hash"]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Give the page that was answered as `questionnaire`, "
                         "with its key next to it.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error!r:.100}). Restore it.") from error
    if not is_whole:
        raise InputError(f"{path}: was edited, so its hash does not match its questions. Restore it.")
    return questionnaire


@dataclass(frozen=True)
class Answers:
    """One person's answers: question -> positions of the candidates, best first."""
    path: Path
    participant: str                    # a random id
    rankings: Mapping[str, Sequence[int]]
    generated: bool                     # produced by a program, as for a test


def read_answers(path: Path, questionnaire: Questionnaire) -> Answers:
    """Read answers saved by the page. Raises InputError if they are damaged or for another questionnaire."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own, rankings = content["questionnaire"], dict(content["answers"])
        participant = str(content["participant"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give a file that the page saved."
                         ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not a file of answers ({error!r:.100}). Give one that the page saved."
                         ) from error
    if own != questionnaire.hash:
        raise InputError(f"{path}: answers a different questionnaire ({str(own)[:20]!r}, not "
                         f"{questionnaire.hash!r}). Give the page that it answers as `questionnaire`.")
    known = {one.id: sorted(map(str, range(len(one.setups)))) for one in questionnaire.questions}
    for name, ranking in rankings.items():
        if name not in known or not isinstance(ranking, list) or sorted(map(str, ranking)) != known[name]:
            raise InputError(f"{path}: the answer to {ascii(name)[:40]} is not a ranking of its images. The "
                             "file was edited, so drop it.")
    return Answers(path, participant, rankings, bool(content.get("generated")))


@dataclass(frozen=True)
class Preference:
    """How a setup was ranked: its mean score (1 if always first, 0 if always last), and how often it was
    first."""
    setup: str
    scores: Mapping[str, Score]         # by kind
    firsts: Mapping[str, float]


def preferences(questionnaire: Questionnaire, answers: Sequence[Answers]) -> list[Preference]:
    """Score each setup by its mean normalized rank (K - rank) / (K - 1) among K candidates. Intervals are 95%
    t intervals over people, since one person's rankings are alike. Raises InputError if a kind has no
    answers at all."""
    by_id = {question.id: question for question in questionnaire.questions}
    names = sorted({name for question in questionnaire.questions for name in question.setups})
    values: dict[tuple[str, str], list[Tensor]] = {(kind, name): [] for kind in KINDS for name in names}
    for person, one in enumerate(answers):
        for name, ranking in one.rankings.items():
            question, K = by_id[name], len(ranking)
            for place, candidate in enumerate(map(int, ranking)):
                values[question.kind, question.setups[candidate]].append(
                    torch.tensor([person, (K - 1 - place) / (K - 1), place == 0], dtype=torch.float64))
    if missing := [kind for kind in KINDS if not values[kind, names[0]]]:
        raise InputError(f"no {missing[0]} question was answered. Give files that answer both kinds.")
    tables = {which: torch.stack(some) for which, some in values.items()}
    return [Preference(name, {kind: _by_person(tables[kind, name]) for kind in KINDS},
                       {kind: tables[kind, name][:, 2].mean().item() for kind in KINDS}) for name in names]


def _by_person(rows: Tensor) -> Score:
    """The mean over people of each person's mean score; rows: person, score, first (n 3)."""
    one = interval(torch.stack([rows[rows[:, 0] == person, 1].mean() for person in rows[:, 0].unique()]))
    return Score(one.value, max(one.low, 0.0), min(one.high, 1.0))


def table(found: Sequence[Preference]) -> str:
    """Preferences in Markdown."""
    rows = [["setup", *(f"{kind}: mean score" for kind in KINDS), *(f"{kind}: first" for kind in KINDS)]]
    rows += [[one.setup, *(str(one.scores[kind]) for kind in KINDS),
              *(f"{one.firsts[kind]:.0%}" for kind in KINDS)] for one in found]
    return markdown(rows)
