"""What `recipe.recognize` has measured so far, a file for each row and thing, so that an interrupted run
continues where it was.
"""
from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm import InputError
from recipe.scenery import SIZE
from weights.files import atomic_write

Shares = dict[str, dict[str, Any]]          # prompt -> measure -> share, or share with its interval
Part = tuple[Shares, dict[str, Image.Image]]        # the shares of a thing, and an image for each prompt


@dataclass(frozen=True)
class Parts:
    """A folder of PNG files, which show a thing's images side by side and hold its shares as text."""
    folder: Path

    @classmethod
    def of(cls, out: Path, *depends_on: Any) -> Parts:
        """Those of one set of options, in a folder of their own: numbers of different options never mix."""
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:8]
        return cls(out / f"parts-{key}")

    def read(self, row: str, thing: str) -> Part | None:
        """The part, if it has been measured. Raises InputError if its file is damaged."""
        path = self._path(row, thing)
        if not path.exists():
            return None
        try:
            with Image.open(path) as strip:
                strip.load()
                shares = json.loads(strip.info["shares"])
                return shares, {prompt: strip.crop((i * SIZE, 0, (i + 1) * SIZE, SIZE))
                                for i, prompt in enumerate(shares)}
        except (OSError, KeyError, ValueError, SyntaxError) as error:
            raise InputError(f"{path}: damaged ({error!r:.100}). Delete it.") from error

    def write(self, row: str, thing: str, part: Part) -> None:
        shares, samples = part
        strip = np.hstack([np.asarray(samples[prompt].resize((SIZE, SIZE))) for prompt in shares])
        info = PngInfo()
        info.add_text("shares", json.dumps(shares))
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path(row, thing)) as partial:
            Image.fromarray(strip).save(partial, "PNG", pnginfo=info)

    def _path(self, row: str, thing: str) -> Path:
        return self.folder / f"{row}, {thing}.png"
