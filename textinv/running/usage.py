"""What to type next: shell commands that use a run, ready to paste."""
from __future__ import annotations

import shlex
from pathlib import Path

from textinv.prompts import use_prompts


def sample_commands(folder: Path, placeholder: str, style: bool) -> list[str]:
    """Shell commands that use a run's word, ready to paste."""
    return [f"{program('sample')} {shlex.quote(prompt)} --concept {shlex.quote(str(folder))}"
            for prompt in use_prompts(placeholder, style)]


def program(command: str) -> str:
    """How to start a command: by its script if that is here, else by the installed program."""
    return f"python {command}.py" if Path(f"{command}.py").is_file() else f"textinv {command}"
