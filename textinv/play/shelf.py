"""The playground's words: the model knows them, and each is a file in a folder, so they survive a restart.
`textinv.formats` reads and writes the files of other tools.
"""
from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ldm import InputError, LatentDiffusion
from textinv.concept import Concept, check_fits, learned_elsewhere, load_all, patch, save_all, unpatch
from textinv.formats import FORMATS
from textinv.images import print_warning


class Shelf:
    """The learned words of a model, read from a folder. Files that cannot be read or do not fit the model are
    skipped with a warning. Raises InputError if the folder is a file."""

    def __init__(self, model: LatentDiffusion, folder: Path):
        if os.path.exists(folder) and not folder.is_dir():
            raise InputError(f"`words` is {folder}, which is not a folder. Give one for the learned words.")
        self.model, self.folder = model, folder
        self.words: dict[str, Concept] = {}
        self.notes: list[str] = []              # what the user should know about the last action
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                for concept in load_all(path):
                    self._teach(concept)
                    self._files[concept.placeholder] = path
            except InputError as error:                     # a word of another model, or a damaged file
                print_warning(f"{path}: skipped. {error}")

    def add(self, concept: Concept) -> None:
        """Teach the model a word, and save it in the folder under a new name. If it cannot be written, the
        model knows the word anyway, and a note says so."""
        self._teach(concept)
        try:
            self._save(concept)
        except (InputError, OSError) as error:
            self.notes.append(f"The word could not be saved ({error}). Download it.")

    def read(self, path: str | Path) -> list[str]:
        """Add the words of a file in any format that `textinv.formats` knows; returns them."""
        try:
            concepts = load_all(path)
            for concept in concepts:
                check_fits(self.model, concept)
                if concept.placeholder in self.model.words:
                    raise InputError(f"the word {concept.placeholder!r} already exists. Remove it first.")
        except InputError as error:
            raise InputError(named(str(error), [path])) from error
        for concept in concepts:
            if learned_elsewhere(concept, self.model):
                self.notes.append(f"{concept.placeholder!r} was learned on another model.")
            self.add(concept)
        return [concept.placeholder for concept in concepts]

    def write(self, word: str, format: str, folder: Path) -> Path:
        """Write a word in one of `formats.FORMATS` to a folder, created if needed; returns the path."""
        if word not in self.words:
            raise InputError(f"there is no word {word!r}. Choose one from the list.")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (_slug(word) + FORMATS[format].suffixes[0])
        save_all(path, [self.words[word]], format)
        return path

    def forget(self, word: str) -> None:
        """Make the model forget a word. Its file is kept under a name that is not read; other words in that
        file get files of their own."""
        unpatch(self.model, word)
        del self.words[word]
        path = self._files.pop(word, None)
        for other in [name for name, file in self._files.items() if file == path]:
            self._save(self.words[other])
        if path is not None and path.exists():          # the user may have moved it
            path.rename(_free_path(self.folder, path.stem, ".removed"))

    def _save(self, concept: Concept) -> None:
        path = _free_path(self.folder, _slug(concept.placeholder), ".safetensors")
        concept.save(path)
        self._files[concept.placeholder] = path

    def _teach(self, concept: Concept) -> None:
        patch(self.model, concept)
        self.words[concept.placeholder] = concept


def named(message: str, paths: Sequence[str | Path]) -> str:
    """Replace paths by file names in the message: where an upload is stored tells the user nothing."""
    for path in paths:
        message = message.replace(str(path), Path(path).name)
    return message


def _slug(word: str) -> str:
    """A file name for a word."""
    return re.sub(r"[^\w-]+", "", word) or "word"


def _free_path(folder: Path, stem: str, suffix: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [stem, *(f"{stem}-{i}" for i in range(2, 10_000))]
    return next(path for name in names if not (path := folder / f"{name}{suffix}").exists())
