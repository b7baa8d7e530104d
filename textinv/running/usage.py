"""What to type next: commands that use a run, to be pasted into a shell."""
from __future__ import annotations

import shlex
from pathlib import Path

from textinv.prompts import use_prompts


def sample_commands(folder: Path, placeholder: str, style: bool) -> list[str]:
    """Commands that use a run's word, to be pasted into a shell."""
    return [f"{program('sample')} {shlex.quote(prompt)} --concept {shlex.quote(str(folder))}"
            for prompt in use_prompts(placeholder, style)]


def program(command: str) -> str:
    """How to start a command: by its script where that is at hand, else by the installed program."""
    return f"python {command}.py" if Path(f"{command}.py").is_file() else f"textinv {command}"
