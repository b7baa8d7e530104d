"""The two questionnaires of the user study as a single-file page: people rank images by clicking them, best
first, and the browser saves the answers as JSON. It needs no network, and does not reveal which setup made
which image.
"""
from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from PIL import Image

from textinv.evaluation.questionnaire import LIKENESS, Question, Questionnaire
from textinv.inside import page

WIDTH = 136                     # CSS pixels, of an image

STYLE = """
section h2 { margin-top: .2rem; }
.candidate { position: relative; padding: 4px; border: 2px solid var(--line); border-radius: 10px;
             background: var(--card); cursor: pointer; }
.candidate.ranked { border-color: var(--accent); }
.candidate .rank { position: absolute; top: 8px; left: 8px; min-width: 1.7rem; border-radius: 1rem;
                   background: var(--accent); color: var(--paper);
                   font: bold 1rem/1.7rem system-ui, sans-serif; }
.candidate:not(.ranked) .rank { display: none; }
#bar { position: sticky; bottom: 0; background: var(--paper); border-top: 1px solid var(--line);
       padding: .7rem 0; }
#bar button { font: inherit; padding: .4rem 1rem; }
"""

SCRIPT = """
const HASH = document.body.dataset.questionnaire, KEY = "participant-" + HASH;
const sections = [...document.querySelectorAll("section[data-id]")];
// of a new participant, or of one who has not saved yet
let participant = [...crypto.getRandomValues(new Uint32Array(4))].map(part => part.toString(16)).join("-");
let rankings = {}, saved = false;
try { ({participant, rankings} = JSON.parse(localStorage.getItem(KEY))); } catch (error) { /* none stored */ }

function isDone(section) {
  return (rankings[section.dataset.id] || []).length === section.querySelectorAll(".candidate").length;
}
function answersText() {
  const answers = {};
  for (const section of sections)
    if (isDone(section)) answers[section.dataset.id] = rankings[section.dataset.id];
  return JSON.stringify({questionnaire: HASH, participant, generated: false, answers}, null, 2) + "\\n";
}
function show() {
  for (const section of sections)
    for (const button of section.querySelectorAll(".candidate")) {
      const place = (rankings[section.dataset.id] || []).indexOf(Number(button.dataset.candidate));
      button.classList.toggle("ranked", place >= 0);
      button.querySelector(".rank").textContent = place >= 0 ? place + 1 : "";
    }
  const done = sections.filter(isDone).length;
  document.getElementById("done").textContent = done + " of " + sections.length + " answered";
  document.getElementById("save").disabled = done === 0;
  if (saved) return;            // what is clicked after saving must not reach the next participant
  try { localStorage.setItem(KEY, JSON.stringify({participant, rankings})); }
  catch (error) { /* kept in this page alone */ }
}
document.addEventListener("click", event => {
  const button = event.target.closest(".candidate");
  if (!button) return;
  const id = button.closest("section").dataset.id, candidate = Number(button.dataset.candidate);
  const before = rankings[id] || [];
  rankings[id] = before.includes(candidate) ? before.filter(one => one !== candidate)
                                            : [...before, candidate];
  show();
});
document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([answersText()], {type: "application/json"}));
  link.download = "answers-" + HASH + ".json";
  link.click();
  saved = true;
  try { localStorage.removeItem(KEY); } catch (error) { /* nothing was stored */ }
  document.getElementById("done").textContent = "Saved. For another person, reload this page.";
});
show();
"""


def questionnaire_page(questionnaire: Questionnaire, candidates: Mapping[str, Image.Image],
                       training: Mapping[str, Sequence[Image.Image]]) -> str:
    """The HTML document. candidates: images by path; training: the training images to show for each thing."""
    body = ("<h1>Ranking images</h1><p>Click the images of a question in order, best first; click one again "
            "to undo it. You may skip questions. At the end, save your answers and send the file to whoever "
            "gave you this page. Nothing is sent automatically.</p>")
    for i, question in enumerate(questionnaire.questions, 1):
        body += _section(i, question, candidates, training[question.thing])
    body += ("<div id=bar><button type=button id=save>Save the answers</button> "
             f"<span id=done class=soft></span></div><script>{SCRIPT}</script>")
    document = page.document("Ranking images", body, STYLE)
    return document.replace("<body>", f'<body data-questionnaire="{questionnaire.hash}">', 1)


def _section(number: int, question: Question, candidates: Mapping[str, Image.Image],
             training: Sequence[Image.Image]) -> str:
    if question.kind == LIKENESS:
        asked = "Which is most like the thing in these images? Rank them by likeness."
        images = "".join(page.img(image, "the thing", WIDTH) for image in training)
        shown = f"<div class=row>{images}</div>"
    else:
        asked = "Which best matches this text? Rank them by agreement."
        shown = f"<p class=accent>“{html.escape(question.text)}”</p>"
    buttons = "".join(
        f'<button type=button class=candidate data-candidate="{i}"><span class=rank></span>'
        f'{page.img(candidates[path], f"candidate {i + 1}", WIDTH)}</button>'
        for i, path in enumerate(question.images))
    return (f'<section class=card data-id="{html.escape(question.id)}"><h2>{number}. {asked}</h2>{shown}'
            f"<div class=row style='margin-top: .8rem'>{buttons}</div></section>")
