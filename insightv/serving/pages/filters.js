// The form that chooses chains. It is made once and then only kept true, so that whoever types in it is not interrupted.

import { find, given, make } from "/pages/dom.js";

export const FILTERS = ["stage", "family", "verdict", "low", "high", "defect", "doubt", "entered", "hand", "words", "sort"];
const SORTS = [["", "in order"], ["score", "best score first"], ["score-up", "worst score first"], ["words", "longest first"], ["words-up", "shortest first"]];
const DOUBTS = [["", "all"], ["any", "by rules or scorer"], ["rule", "rules against the judge"], ["score", "right, but scored low"]];
const fields = {};
const link = make("a", "button", "Export selection");

export const selection = (state) => Object.fromEntries(FILTERS.map((name) => [name, state[name]]));

// `go` is called with the fields that somebody changed.
export function makeFilters(go) {
  const add = (name, label, input, className = "") => {
    Object.assign(input, { name, onchange: () => go({ [name]: input.value }) });
    fields[name] = input;
    return make("label", className, label, input);
  };
  const select = (name, label) => add(name, label, make("select"));
  const number = (name, label) => add(name, label, Object.assign(make("input"), { type: "number", min: 0, max: 100 }), "half");
  const search = Object.assign(make("input"), { type: "search", id: "words", placeholder: 'words, or "a phrase"' });
  const clear = Object.assign(make("button", "", "Clear"), { type: "button", onclick: () => go(Object.fromEntries(FILTERS.filter((name) => name !== "stage").map((name) => [name, ""]))) });
  const scores = [number("low", "Score from"), number("high", "to")];
  const counted = [select("family", "Family"), select("verdict", "Verdict"), ...scores, select("defect", "Defect")];
  const others = [select("doubt", "Seen differently"), select("entered", "Entered"), select("hand", "By hand"), select("sort", "Sort")];
  const round = select("pairs", "Round");
  find("filters").append(add("words", "Search", search), select("stage", "Stage"), ...counted, ...others, make("p", "row", clear, link), round);
  find("filters").onsubmit = (event) => event.preventDefault();
}

export function showFilters(state, facets) {
  const stage = facets.stages[state.stage] ?? {};
  // What a link or another stage asks for is offered too, so that the form always says what is listed.
  const counts = (name) => {
    const found = stage[name] ?? {}, asked = state[name] === "none" ? "" : state[name];
    const missing = state[name] && !(asked in found) ? { [asked]: 0 } : {};
    return [["", "any"], ...Object.entries({ ...found, ...missing }).map(([value, count]) => [value || "none", `${value || "not judged"} (${count.toLocaleString()})`])];
  };
  const options = {
    stage: Object.entries(facets.stages).map(([name, { chains }]) => [name, `${name} (${chains.toLocaleString()})`]),
    family: counts("family").filter(([name]) => name !== "none"),
    verdict: counts("verdict"),
    defect: counts("defect"),
    doubt: DOUBTS,
    entered: [["", "anything"], ...Object.entries(facets.sets).map(([name, reasons]) => [name, `${name} (${(reasons.entered ?? 0).toLocaleString()})`])],
    hand: [["", "all"], ["any", "corrected by hand"]],
    sort: SORTS,
    pairs: Object.entries(facets.pairs).map(([name, count]) => [name, `${name} (${count.toLocaleString()})`]),
  };
  for (const [name, choices] of Object.entries(options)) fill(fields[name], choices);
  for (const [name, field] of Object.entries(fields)) if (field.value !== (state[name] ?? "")) field.value = state[name] ?? "";
  const only = { pairs: fields.pairs, plots: fields.stage }[state.tab];
  for (const part of find("filters").children) part.hidden = only ? !part.contains(only) : part.contains(fields.pairs);
  link.href = `/data/export?${new URLSearchParams(given(selection(state)))}`;
}

// Options are replaced only when they are others: an open list stays open.
function fill(box, choices) {
  const told = JSON.stringify(choices);
  if (box.dataset.told === told) return;
  box.dataset.told = told;
  box.replaceChildren(...choices.map(([value, text]) => Object.assign(make("option", "", text), { value })));
}
