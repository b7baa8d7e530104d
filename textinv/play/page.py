"""The playground's page, built with gradio: what is on it, and which of the studio's functions (studio.py)
each button calls. They all share one worker, so a second browser waits and sees its place in the queue. No
data is sent to or fetched from anyone else: no analytics, no share link, no run history, system fonts.
"""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Default
from starlette.middleware import Middleware

from ldm import InputError
from ldm.samplers import SAMPLERS
from textinv.formats import FORMATS
from textinv.inside import svg
from textinv.options import MAX_SEED, InversionConfig
from textinv.play.guard import OwnPagesOnly
from textinv.play.messages import sentences, text
from textinv.play.studio import Learning, Sampling, Studio
from textinv.reporting.charts import curves

MAX_UPLOAD = "20mb"             # per file
MAX_POINTS = 300                # per curve, which is sent in full each time
ONE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
AT_ANY_TIME: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}

CSS = svg.CSS + """
.gradio-container { --ink: var(--body-text-color); --soft: var(--neutral-500);
                    --paper: var(--background-fill-primary); --line: var(--border-color-primary);
                    --accent: var(--primary-500); }
.dark .gradio-container { --soft: var(--neutral-400); }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); }
.charts figure { margin: 0; } .charts figcaption { font-size: .85rem; color: var(--soft); }
.notes { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
"""
THEME = Default(primary_hue="orange", font=["system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"])
INTRO = """# Textual Inversion
Drop a few images of one thing, learn a word for it, and use the word in any prompt."""


def build(studio: Studio, exports: Path) -> gr.Blocks:
    """Build the page. exports: a folder for the files to download."""
    with gr.Blocks(title="Textual Inversion", analytics_enabled=False) as blocks:
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(min_width=340):
                learned = _learning(studio)
            with gr.Column(min_width=340):
                _using(studio)
                _shelf(studio, exports, learned, blocks)
    blocks.queue(api_open=False)
    return blocks


def launch(blocks: gr.Blocks, host: str, port: int, *, opens: bool) -> str:
    """Serve the page from other threads; returns its address. Raises OSError if the port is in use."""
    blocks.launch(server_name=host, server_port=port, inbrowser=opens, share=False, quiet=True,
                  prevent_thread_lock=True, max_file_size=MAX_UPLOAD, footer_links=[], run_history=False,
                  enable_monitoring=False, ssr_mode=False, theme=THEME, css=CSS,
                  app_kwargs={"middleware": [Middleware(OwnPagesOnly, host=host)]})
    return str(blocks.local_url)


def _learning(studio: Studio) -> gr.State:
    """Images in, a word out; returns a state that changes with each word learned."""
    gr.Markdown("## Learn a word")
    files = gr.File(label="Images: 3 to 5 of one thing", file_count="multiple", height=140)
    seen = gr.Image(**_SHOWN, elem_id="seen", visible=False)
    with gr.Row():
        init = gr.Textbox(label="Start from", info="a word for the images; leave empty to predict it",
                          min_width=120)
        word = gr.Textbox("*", label="The new word", info="stands for it in prompts", min_width=120)
    steps = gr.Slider(10, 5000, InversionConfig().steps, step=10, label="Steps")
    with gr.Accordion("More", open=False):
        vectors = gr.Slider(1, 8, 1, step=1, label="Vectors", info="more add detail")
        style = gr.Checkbox(label="A style, not a thing")
        seed = _seed()
    begun = _begin_and_stop(studio, "Learn")
    told = gr.HTML(elem_id="learning")
    preview = gr.Image(**_SHOWN)
    charts = gr.HTML()
    learned = gr.State("")          # the last word and when it was learned

    def look(paths: Sequence[str] | None) -> tuple[Any, str]:
        with sentences():
            if not paths:
                return gr.Image(visible=False), ""
            studio.notes.clear()
            return gr.Image(studio.look_at(paths), visible=True), text(*studio.notes)

    def learn(request: gr.Request, paths: Sequence[str] | None, init: str, word: str, steps: int,
              vectors: int, style: bool, seed: int | None) -> Iterator[tuple[Any, ...]]:
        with sentences():
            if not studio.has_turn(owner := _owner(request, "Learn")):
                return
            if not paths:
                raise InputError("there are no images. Drop 3 to 5 of one thing first.")
            config = InversionConfig(init=init.strip() or "auto", placeholder=word.strip(), steps=int(steps),
                                     style=style, vectors=int(vectors), seed=int(seed or 0),
                                     eval_every=max(1, int(steps) // 10))
            made = 0
            for part in studio.start(studio.learn(paths, config), owner):
                made = len(part.metrics)
                yield (text(f"Step {made} of {part.steps}", *studio.notes),
                       gr.skip() if part.preview is None else part.preview, _curves(part), gr.skip())
            done = f"Learned “{config.placeholder}”: {made} of {config.steps} steps."
            # the time, because gradio ignores a state that is the same as before
            yield text(done, *studio.notes), gr.skip(), gr.skip(), f"{config.placeholder} {time.time_ns()}"

    files.change(look, files, [seen, told], **ONE)
    begun.then(learn, [files, init, word, steps, vectors, style, seed], [told, preview, charts, learned],
               **ONE)
    return learned


def _using(studio: Studio) -> None:
    """Prompts in, images out, and where the words look."""
    gr.Markdown("## Use it")
    defaults = Sampling()
    prompts = gr.Textbox("a photo of a * on the beach\na photo of a *", label="Prompts, one per line",
                         lines=3)
    n = gr.Slider(1, 16, defaults.n, step=1, label="Images per prompt")
    strength = gr.Slider(0, 2, defaults.strength, step=0.05, label="Strength of the words",
                         info=_info("strength"))
    with gr.Row():
        guidance = gr.Slider(0, 20, defaults.guidance, step=0.5, label="Guidance", info=_info("guidance"))
        steps = gr.Slider(1, 1000, defaults.steps, step=1, label="Sampler steps", info=_info("steps"))
    with gr.Row():
        sampler = gr.Dropdown(list(SAMPLERS), value=defaults.sampler, label="Sampler", info=_info("sampler"))
        seed = _seed()
    looks = gr.Checkbox(label="Show where the words of the first prompt attend")
    begun = _begin_and_stop(studio, "Generate")
    told = gr.HTML(elem_id="using")
    with gr.Row():
        images = gr.Image(**_SHOWN, elem_id="images", min_width=420)
        attention = gr.Image(**_SHOWN, elem_id="attention", min_width=420, visible=False)

    def sample(request: gr.Request, prompts: str, looks: bool, *values: Any) -> Iterator[tuple[Any, ...]]:
        with sentences():
            if not studio.has_turn(owner := _owner(request, "Generate")):
                return
            sampling = Sampling(**dict(zip(("n", "strength", "guidance", "sampler", "steps", "seed"), values,
                                           strict=True)))
            for grid in studio.start(studio.sample(prompts, sampling), owner):
                yield text(*studio.notes), grid, gr.Image(visible=False)
            if looks and (attended := studio.attend(prompts, sampling)) is not None:
                yield gr.skip(), gr.skip(), gr.Image(attended, visible=True)

    begun.then(sample, [prompts, looks, n, strength, guidance, sampler, steps, seed],
               [told, images, attention], **ONE)


def _shelf(studio: Studio, exports: Path, learned: gr.State, blocks: gr.Blocks) -> None:
    """The learned words: import, export, remove."""
    shelf = studio.shelf
    gr.Markdown("## Your words")
    with gr.Row():
        words = gr.Dropdown(list(shelf.words), label="Word", min_width=120)
        format = gr.Dropdown([(f"{name} ({layout.suffixes[0]})", name) for name, layout in FORMATS.items()],
                             value="native", label="File format", min_width=120)
    with gr.Row():
        download = gr.DownloadButton("Download", interactive=False, elem_id="download")
        remove = gr.Button("Remove")
    told = gr.HTML(elem_id="words")
    files = gr.File(label="Word files to add: .safetensors, .pt, .bin", file_count="multiple", height=120)

    def listed(chosen: str | None = None) -> Any:
        known = list(shelf.words)
        return gr.Dropdown(known, value=chosen if chosen in known else known[-1] if known else None)

    def prepare(word: str | None, format: str) -> Any:
        with sentences():
            if word not in shelf.words:
                return gr.DownloadButton("Download", value=None, interactive=False)
            return gr.DownloadButton("Download", value=str(shelf.write(word, format, exports)),
                                     interactive=True)

    def read(paths: Sequence[str] | None) -> tuple[Any, str]:
        with sentences():
            shelf.notes.clear()
            added, errors = [], []
            for path in paths or ():
                try:
                    added += shelf.read(path)
                except InputError as error:         # the others are read anyway
                    errors.append(error)
            if errors and not added:
                raise InputError(" ".join(map(str, errors)))
            shelf.notes += [f"Not added: {error}" for error in errors]
            return listed(added[-1] if added else None), text(*(f"Added “{word}”." for word in added),
                                                              *shelf.notes)

    def forget(word: str | None) -> tuple[Any, str]:
        with sentences():
            if word is None:
                raise InputError("there is no word to remove.")
            shelf.forget(word)
            return listed(), text(f"Removed “{word}”. Its file stays in {shelf.folder}.")

    blocks.load(listed, None, words, **ONE)
    learned.change(lambda last: listed(last.rpartition(" ")[0]), learned, words, **ONE)
    gr.on([words.change, format.change], prepare, [words, format], download, **ONE)
    files.upload(read, files, [words, told], **ONE)
    remove.click(forget, words, [words, told], **ONE)


_SHOWN: dict[str, Any] = {"type": "pil", "format": "png", "interactive": False, "show_label": False,
                          "buttons": ["download", "fullscreen"]}


def _seed() -> gr.Number:
    return gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=100)


def _info(name: str) -> str:
    """What an option does: the option's own help text."""
    return next(field.metadata["help"] for field in dataclasses.fields(Sampling) if field.name == name)


def _begin_and_stop(studio: Studio, label: str) -> Any:
    """A button with this label, and one that stops the work it started; returns the first one's click event,
    which registers the work as waiting for its turn."""
    def wait(request: gr.Request) -> None:
        studio.wait(_owner(request, label))

    def stop(request: gr.Request) -> None:
        gr.Info("Stopping after this part. A word keeps what it has learned."
                if studio.stop(_owner(request, label)) else "Nothing of yours is running.")

    with gr.Row():
        begins, stops = gr.Button(label, variant="primary"), gr.Button("Stop")
    stops.click(stop, **AT_ANY_TIME)
    return begins.click(wait, **AT_ANY_TIME)


def _owner(request: gr.Request, label: str) -> str:
    """The owner of the work: one button in one browser session."""
    return f"{label} {request.session_hash}"


def _curves(part: Learning) -> str:
    every = -(-len(part.metrics) // MAX_POINTS)
    return curves(part.metrics, {}, part.word, every=every) if part.metrics else ""
