// A problem with all that belongs to it: its chains or a pair of them, what became of each, and what is said of it by hand.

import { differing } from "/pages/diff.js";
import { button, find, get, guarded, make, post, reveal } from "/pages/dom.js";

const SIGNS = { right: "✓", wrong: "✗", open: "?", "": "·" };
let turn = 0; // counts what is shown, so that a late answer to an old question is not
let saving = Promise.resolve(); // corrections go one after the other, so that each knows what those before it came to

// The verdict that counts: somebody's by hand before the judge's.
export function sign(verdict, hand) {
  const said = hand?.correct === true ? "right" : hand?.correct === false ? "wrong" : verdict;
  const element = make("span", `verdict ${said}`, SIGNS[said], hand?.flagged ? "⚑" : "");
  if (hand) element.title = [said !== verdict && `by hand; before: ${verdict || "not judged"}`, hand.flagged && "flagged by hand", hand.note].filter(Boolean).join("; ");
  element.classList.toggle("by-hand", Boolean(hand));
  return element;
}

export function showDetail(...parts) {
  turn++;
  find("detail").replaceChildren(...parts);
}

// `told` hears of each correction.
export async function showProblem(state, told) {
  if (!state.problem) return showDetail();
  const mine = ++turn;
  const found = await saving.then(() => get(`problems/${encodeURIComponent(state.problem)}`)).catch((error) => {
    if (mine !== turn) return null;
    showDetail();
    throw error;
  });
  if (mine !== turn) return;
  const marked = marker(state.words);
  const rows = new Map(found.chains.map((row) => [row.id, row]));
  const [one, other] = [rows.get(state.chain), rows.get(state.rejected)];
  const article = (row, differs = []) => showChain(row, found, { chosen: row.id === state.chain, differs, marked, told });
  const same = found.chains.filter((row) => row.stage === (one?.stage ?? state.stage));
  showDetail(...showQuestion(found, marked), state.tab === "pairs" && one && other ? showPair(one, other, article) : make("div", "chains", same.map((row) => article(row))));
  const pane = find("detail"), chosen = pane.querySelector(".chosen");
  if (pane.dataset.problem !== state.problem) pane.scrollTop = 0; // a new problem is seen from its picture on
  pane.dataset.problem = state.problem;
  if (chosen) reveal(pane, chosen);
}

// Press a button of a chain by its name, if the chain's details are those that are shown.
export function press(chain, name) {
  const article = [...find("detail").querySelectorAll("article.chosen")].find((one) => one.dataset.chain === chain);
  [...(article?.querySelectorAll(".hand button") ?? [])].find((one) => one.textContent === name)?.click();
}

function showQuestion({ problem, split, family, uses }, marked) {
  const pictures = problem.images.map((digest) => Object.assign(make("img"), { src: `/data/images/${digest}`, alt: "Picture of the problem" }));
  const options = problem.options.length ? make("ol", "options", problem.options.map((option) => make("li", "", option))) : null;
  const truth = make("p", "truth", "Ground truth: ", make("strong", "", problem.answers.join(" or ")));
  const facts = make("p", "note", [split, family, problem.answer_type, problem.source].filter(Boolean).join(" · "));
  // What became of the problem, where no chain of it is to blame.
  const fates = uses.filter((use) => !use.chain && use.reason).map((use) => fate(use));
  return [make("div", "asked", pictures, make("div", "", make("p", "", marked(problem.question)), options, truth)), facts, make("ul", "fates", fates)];
}

const plain = (name) => name.replaceAll("_", " ");
const fate = (use) => make("li", use.reason ? "out" : "in", `${use.stage}: ${use.reason ? plain(use.reason) : use.role === "chain" ? use.detail : use.role}`);

function showChain(row, found, { chosen, differs, marked, told }) {
  const { chain, judged, rated } = row;
  const step = (one, at) => make("li", differs[at] ? "differs" : "", make("strong", "", marked(one.summary)), make("span", "", marked(one.reasoning)));
  const uses = found.uses.filter((use) => use.chain === row.id);
  const note = (text, className = "") => (text ? make("p", `note ${className}`, marked(text)) : null);
  const heading = make("h2", "", sign(row.verdict, found.hand[row.id]), ` Path ${row.position + 1}`, make("span", "score", row.score === null ? "" : ` ${row.score} of 100`));
  const corrected = (hand) => {
    heading.firstChild.replaceWith(sign(row.verdict, hand));
    told(row.id, hand);
  };
  const article = make(
    "article",
    `chain ${chosen ? "chosen" : ""}`,
    heading,
    make("ol", "", chain.steps.map(step)),
    make("p", "", marked(chain.conclusion), " ", make("strong", "", chain.answer ? "Answer: " : "No answer", marked(chain.answer))),
    note(chain.reason && `${chain.status === "failed" ? "Failed" : "Not usable"}: ${chain.reason}`, "error"),
    note(judged && `${row.verdict || "not judged"} by ${judged.by}${judged.reason ? `: ${judged.reason}` : ""}`),
    note(rated && `Scored ${rated.value ?? "not at all"}: ${rated.reason}`),
    note({ rule: "The rules see this answer differently than the judge.", score: "Right, but scored low." }[row.doubt], "error"),
    note(chain.defects.length && `Defects: ${plain(chain.defects.join(", "))}`),
    uses.length ? make("ul", "fates", uses.map(fate)) : null,
    chain.text ? make("details", "raw", make("summary", "", "As it was written"), make("pre", "", chain.text)) : null,
    byHand(row, found.hand[row.id] ?? { correct: null, flagged: false, note: "" }, corrected),
  );
  article.dataset.chain = row.id;
  return article;
}

// What somebody says of a chain: the verdict it should have, or that it should enter no data set. The next `insightv build` follows it.
function byHand(row, said, corrected) {
  const say = (changes) => () =>
    (saving = saving.then(guarded(async () => {
      said = await post("corrections", { chain_id: row.id, problem_id: row.problem, ...changes(said) });
      show();
    })));
  const choice = (text, title, pressed, changes) => Object.assign(button(text, say(changes)), { title, pressed });
  const choices = [
    choice("Right", "The answer is right, whatever the judge said (r)", () => said.correct === true, (now) => ({ correct: now.correct === true ? null : true })),
    choice("Wrong", "The answer is wrong, whatever the judge said (w)", () => said.correct === false, (now) => ({ correct: now.correct === false ? null : false })),
    choice("Flag", "Keep this chain out of every data set (f)", () => said.flagged, (now) => ({ flagged: !now.flagged })),
  ];
  const note = Object.assign(make("input"), { type: "text", maxLength: 2000, placeholder: "why", ariaLabel: "Note" });
  note.onchange = () => say(() => ({ note: note.value }))();
  const set = () => {
    for (const one of choices) one.setAttribute("aria-pressed", one.pressed());
    note.hidden = said.correct === null && !said.flagged;
    if (note !== document.activeElement) note.value = said.note; // nobody loses what they are typing
  };
  const show = () => {
    set();
    corrected(note.hidden ? null : said);
  };
  set();
  return make("p", "hand", "By hand: ", choices, note);
}

function showPair(chosen, rejected, article) {
  const texts = [chosen, rejected].map((row) => row.chain.steps.map((step) => `${step.summary}\n${step.reasoning}`));
  const [left, right] = differing(...texts);
  return make("div", "columns", make("div", "", make("h2", "good", "Chosen"), article(chosen, left)), make("div", "", make("h2", "error", "Rejected"), article(rejected, right)));
}

// Texts with the words that were searched for marked.
function marker(words) {
  const sought = [...(words ?? "").matchAll(/"([^"]+)"|([^\s"]+)/g)].map(([, phrase, word]) => (phrase ?? word).match(/[\p{L}\p{N}]+/gu)?.join("[^\\p{L}\\p{N}]+")).filter(Boolean);
  if (!sought.length) return (text) => text;
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}])(${sought.join("|")})(?![\\p{L}\\p{N}])`, "giu");
  return (text) => String(text).split(pattern).map((piece, at) => (at % 2 ? make("mark", "", piece) : piece));
}
