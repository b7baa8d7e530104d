"""An audit as a single-file page: what the step saw, the stages in order, and the checks."""
from __future__ import annotations

import html
import itertools

import torch

from ldm import LatentDiffusion
from ldm.model import to_images
from textinv.inside import page
from textinv.inside.audit import Audit
from textinv.inside.audit_text import flops_text, range_text, shape_text, size_text
from textinv.inside.checks import Check
from textinv.inside.stages import Stage

CSS = """
.stage { display: grid; gap: .1rem 1.2rem; grid-template-columns: 11rem 1fr 1fr; }
.stage > :nth-child(1) { font-weight: 600; } .stage > .wide { grid-column: 2 / -1; }
.bar { height: 4px; background: var(--accent); border-radius: 2px; min-width: 1px; }
.token { border: 1px solid var(--line); border-radius: 6px; padding: .1rem .5rem; background: var(--card); }
.token.v { border-color: var(--accent); border-width: 2px; font-weight: 600; }
.token small { display: block; color: var(--soft); font-weight: 400; } .row.tokens { gap: .35rem; }
.check { display: grid; grid-template-columns: 3.4rem 1fr; }
@media (max-width: 44rem) { .stage { grid-template-columns: 1fr; } .stage > .wide { grid-column: 1; } }
"""
INTRO = ("Every stage between the images and the new word in one real training step, computed by the "
         "functions named with it; then the project's claims about them, each with the number measured and "
         "its limit.")


def audit_page(audit: Audit, model: LatentDiffusion) -> str:
    """The whole HTML document. The model decodes the latents that are shown."""
    failed = [check for check in audit.checks if not check.passed]
    verdict = (f'<b class="bad">{len(failed)} of {len(audit.checks)} checks failed.</b>' if failed else
               f'<b class="good">All {len(audit.checks)} checks passed.</b>')
    longest = max(stage.milliseconds for stage in audit.stages)
    body = (f"<h1>Audit of one training step</h1><p>{verdict}</p><p>{INTRO}</p>{page.facts(audit.facts)}"
            f"<h2>What the step saw</h2>{_images(audit, model)}{_tokens(audit)}"
            f"<h2>Stages</h2>{''.join(_stage(stage, longest) for stage in audit.stages)}"
            f"<h2>Checks</h2>{''.join(map(_check, audit.checks))}")
    return page.document("Audit of one training step", body, CSS)


@torch.no_grad()
def _images(audit: Audit, model: LatentDiffusion) -> str:
    step, t = audit.step, int(audit.step.batch.t[0])
    latents = {"z0, decoded": step.batch.z0[:1], f"z_t at t = {t}, decoded": step.z_t[:1],
               "z0 implied by eps_hat": step.predicted_z0(model)}
    images = {"x": to_images(step.x[None])[0],
              **{name: model.decode_images(z.to(model.device))[0]
                 for name, z in latents.items()}}
    figures = "".join(page.figure(image, name, 160) for name, image in images.items())
    return f'<div class="row">{figures}</div>'


def _tokens(audit: Audit) -> str:
    """The first prompt's tokens, each with the norm of its embedding; those of v are marked."""
    step = audit.step
    norms = step.embeddings[0].double().norm(dim=-1).tolist()
    chips = ""
    for (token, norm, is_v), same in itertools.groupby(zip(step.tokens, [f"{norm:.2f}" for norm in norms],
                                                           step.is_v[0].tolist(), strict=True)):
        times = sum(1 for _ in same)
        text = html.escape(token) + (f" × {times}" if times > 1 else "")
        chips += f'<span class="token{" v" if is_v else ""}">{text}<small>{norm}</small></span>'
    return (f"<p>The prompt “{html.escape(step.prompts[0])}” as tokens, with the norm of each embedding. "
            f'Marked: where v is spliced in.</p><div class="row tokens">{chips}</div>')


def _stage(stage: Stage, longest: float) -> str:
    story = " · ".join(html.escape(part) for part in (stage.source, stage.note) if part)
    cost = f"{stage.milliseconds:.3g} ms · {size_text(stage.bytes)}"
    cost += f" · {flops_text(stage.flops)}" * (stage.flops > 0)
    value = " · ".join(part for part in (shape_text(stage), range_text(stage)) if part)
    width = 100 * stage.milliseconds / longest
    return (f'<div class="card stage"><span>{html.escape(stage.name.strip())}</span>'
            f'<span>{html.escape(stage.formula)}</span>'
            f'<span class="soft">{cost}<div class="bar" style="width:{width:.1f}%"></div></span>'
            f'<span class="wide">{value}</span>'
            f'<span class="wide soft small">{story}</span>'
            f'<code class="wide soft">{html.escape(stage.where)}</code></div>')


def _check(check: Check) -> str:
    mark = '<b class="good">ok</b>' if check.passed else '<b class="bad">fails</b>'
    numbers = f"{check.number:.3g}, at most {check.limit:.3g}: {check.meaning}"
    return (f'<div class="card check">{mark}<span>{html.escape(check.claim)}<br>'
            f'<span class="soft small">{html.escape(numbers)}</span></span></div>')
