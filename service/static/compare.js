"use strict";
const $ = id => document.getElementById(id);
const POLL = 3000;
let job = "", pair = null, busy = false;

async function call(address, options) {
  const answer = await fetch(address, options);
  const body = await answer.json();
  if (answer.status === 401) throw new Error("this service needs a token: enter it on its first page");
  if (!answer.ok) throw new Error(body.detail ?? answer.statusText);
  return body;
}

// Text only, never markup: names and messages come from whoever submitted the job.
const tell = (text, bad = false) => {
  $("told").textContent = text;
  $("told").className = bad ? "bad" : "dim";
};

// The newer trial has the higher number: which side it is on changes from pair to pair, so that no habit favours it.
const sides = shown => (shown.number % 2 ? [...shown.trials].reverse() : shown.trials);

function showSide(side, trial) {
  $(`${side}-film`).hidden = !trial.picture;
  if (trial.picture) $(`${side}-film`).src = trial.picture;
  $(`${side}-name`).textContent = trial.picture ? `trial ${trial.number}` : `trial ${trial.number} has no film strip`;
  $(`${side}-params`).textContent = Object.entries(trial.params)
    .map(([name, value]) => `${name} ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`).join(", ");
}

function show(page) {
  const { items, answered, comparisons, missing } = page;
  pair = items[0] ?? null;
  $("count").textContent = `${answered} of ${comparisons} compared`;
  $("pair").hidden = $("equal").hidden = !pair;
  if (pair) {
    const [left, right] = sides(pair);
    showSide("left", left);
    showSide("right", right);
    tell(missing ? `The search waits for ${missing} more.` : "The search needs no answer now; each one helps it.");
  } else tell(answered >= comparisons ? "All is compared: thank you." : "There is nothing to compare now. Trials train, or the search has ended.");
}

async function choose(side) {
  if (!pair || busy) return;
  busy = true;
  const [left, right] = sides(pair);
  const better = { left: left.number, right: right.number, equal: "equal" }[side];
  try {
    const body = JSON.stringify({ better });
    show(await call(`/jobs/${job}/pairs/${pair.number}`, { method: "POST", headers: { "Content-Type": "application/json" }, body }));
  } catch (error) {
    await look();
    tell(error.message, true);
  } finally { busy = false; }
}

async function look() {
  try { show(await call(`/jobs/${job}/pairs`)); } catch (error) {
    pair = null;
    $("pair").hidden = $("equal").hidden = true;
    tell(error.message, true);
  }
}

async function begin() {
  job = encodeURIComponent(location.hash.slice(1));
  $("search").textContent = job || "the address names no search";
  if (!job) return;
  await look();
  try { $("search").textContent = (await call(`/jobs/${job}`)).name; } catch (error) { tell(error.message, true); }
}

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "equal" };
document.onkeydown = event => {
  const side = KEYS[event.key];
  if (!side || !pair || event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  choose(side);
};
for (const side of Object.values(KEYS)) $(side).onclick = () => choose(side);
window.onhashchange = begin;
begin();
setInterval(() => document.hidden || pair || busy || !job || look(), POLL);
