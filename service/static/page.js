"use strict";
const $ = id => document.getElementById(id);
const COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2"];
const LIVE = new Set(["SUBMITTING", "STARTING", "RUNNING", "FINALIZING", "LOST", "RETRY_WAIT", "PAUSING", "QUEUED"]);
let chosen = null, film = "", timer = 0, hasDoor = false;

// Text only, never markup: names and messages come from whoever submitted the job.
function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function duration(seconds) {
  if (seconds == null) return "";
  const s = Math.round(seconds);
  return s < 90 ? `${s} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
}

async function call(address, options) {
  const answer = await fetch(address, options);
  if (answer.status === 401) $("enter").hidden = false;
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok && answer.headers.get("content-type").includes("problem"))
    throw Object.assign(new Error(body.detail), { isAnswer: true });
  return body;
}

// What went wrong: in the service's own words, where it has said any.
const describe = error => error.isAnswer ? error.message : `the service does not answer: ${error.message}`;

// Through this service's door, where it has one: MLflow itself can't be reached from elsewhere.
const runPage = address => hasDoor ? `/mlflow/${new URL(address, location.href).hash}` : address;

function waits(waiting) {
  if (waiting.position == null) return `waits for ${waiting.for}: ${waiting.missing}`;
  const when = waiting.starts_in_seconds == null ? "" : `, perhaps in ${duration(waiting.starts_in_seconds)}`;
  return `place ${waiting.position}${when}: waits for ${waiting.missing}`;
}

function row(job) {
  const tr = make("tr"), p = job.progress;
  const name = tr.appendChild(make("td"));
  const pick = name.appendChild(make("a", job.name, { href: `#${job.id}`, title: job.id }));
  pick.onclick = () => { chosen = job.id; refresh(); };
  if (job.kind !== "train") name.append(make("span", ` ${job.kind}`, { class: "dim" }));
  const state = tr.appendChild(make("td", job.state, job.state === "FAILED" ? { class: "bad" } : {}));
  if (job.attempt > 1) state.append(make("span", ` attempt ${job.attempt}`, { class: "dim" }));
  if (job.error) state.append(make("div", job.error.message, { class: "dim" }));
  else if (job.waiting) state.append(make("div", waits(job.waiting), { class: "dim" }));
  const progress = tr.appendChild(make("td", undefined, { class: "number" }));
  if (p && p.iterations) {
    progress.append(make("progress", undefined, { value: p.iteration, max: p.iterations }));
    const left = LIVE.has(job.state) && p.eta_seconds != null ? `, ${duration(p.eta_seconds)} left` : "";
    progress.append(make("div", `${p.iteration} of ${p.iterations}${left}`, { class: "dim" }));
  } else if (p) progress.textContent = p.phase;
  const scores = tr.appendChild(make("td", undefined, { class: "number" }));
  const tested = job.metrics ?? {};
  for (const score of ["test/mse", "test/fg_ari", "test/count_accuracy"].filter(score => tested[score] != null))
    scores.append(make("div", `${score} ${tested[score].toPrecision(3)}`));
  if (tested["test/mse"] == null && p?.val_mse != null) scores.textContent = `val/mse ${p.val_mse.toPrecision(3)}`;
  tr.append(make("td", p?.images_per_second ? `${Math.round(p.images_per_second)} images/s` : "", { class: "number" }));
  const links = tr.appendChild(make("td"));
  if (job.mlflow_url && /^(https?:|\/mlflow\/)/.test(job.mlflow_url)) links.append(make("a", "MLflow", { href: runPage(job.mlflow_url) }), " ");
  links.append(make("a", "logs", { href: `/jobs/${job.id}/logs` }), " ", make("a", "JSON", { href: `/jobs/${job.id}` }));
  if (job.spec.objective === "human") links.append(" ", make("a", "compare", { href: `/compare#${job.id}` }));
  if (job.model) links.append(make("div", `${job.model.name}/${job.model.version}`));
  if (job.promotion) {
    const became = job.promotion.promoted ? "became the champion" : "not the champion";
    links.append(make("div", `${became}: ${job.promotion.reason}`, { class: "dim" }));
  }
  const actions = tr.appendChild(make("td"));
  if (LIVE.has(job.state) || job.state === "PAUSED") {
    const stop = actions.appendChild(make("button", "cancel"));
    stop.onclick = () => call(`/jobs/${job.id}/cancel`, { method: "POST" }).then(refresh, tell);
  }
  if (job.id === chosen) tr.className = "chosen";
  return tr;
}

// Of the job that was clicked, or else of the newest one that has a film strip.
async function showStrip(jobs) {
  const candidates = chosen ? jobs.filter(job => job.id === chosen) : jobs.filter(job => job.progress).slice(0, 5);
  for (const job of candidates) {
    const { steps } = await call(`/jobs/${job.id}/frames`);
    if (!steps.length) continue;
    const newest = `/jobs/${job.id}/frames/${steps.at(-1)}`;
    if (newest !== film) $("film").src = film = newest;
    $("whose").textContent = `${job.name}, iteration ${steps.at(-1)}`;
    $("strip").hidden = false;
    return;
  }
  $("strip").hidden = true;
}

async function refresh() {
  try {
    const { items } = await call("/jobs?limit=30");
    $("jobs").replaceChildren(...items.map(row));
    $("none").hidden = items.length > 0;
    await showStrip(items);
  } catch (error) { $("ready").textContent = describe(error); }
}

async function readiness() {
  try {
    const { ready, parts } = await call("/readyz");
    const missing = Object.entries(parts).filter(([, part]) => !part.ok).map(([name, part]) => `${name}: ${part.detail}`);
    $("ready").textContent = ready ? "ready" : `not ready: ${missing.join("; ").slice(0, 300)}`;
    $("ready").className = ready ? "dim" : "bad";
    $("model").textContent = parts.model.detail.slice(0, 200);
  } catch (error) { $("ready").textContent = describe(error); }
}

const tell = error => { $("told").textContent = error ? error.message : ""; };

function load(png) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = `data:image/png;base64,${png}`;
  });
}

// Drawn larger than the model's image, so that the window's thin line does not hide it.
function draw(canvas, image, step, index) {
  const zoom = 6, brush = canvas.getContext("2d");
  canvas.width = image.width * zoom;
  canvas.height = image.height * zoom;
  brush.imageSmoothingEnabled = false;
  brush.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (!step) return;
  const { left, top, right, bottom } = step.in_model.window;
  brush.strokeStyle = COLOURS[(index - 1) % COLOURS.length];
  brush.lineWidth = 3;
  brush.strokeRect(left * zoom, top * zoom, (right - left) * zoom, (bottom - top) * zoom);
}

async function reconstruct(file) {
  tell();
  const form = new FormData();
  form.append("file", file);
  const found = await call("/reconstruct", { method: "POST", body: form });
  const images = await Promise.all(found.frames.map(load));
  draw($("given"), await load(found.input));
  const show = at => {
    draw($("canvas"), images[at], found.steps[at - 1], at);
    const mse = found.error[at].toPrecision(3);
    $("caption").textContent = `${found.model.name} ${found.model.version} · after ${at} of ${images.length - 1} writes · mse ${mse}`;
  };
  $("frames").replaceChildren(...images.map((image, at) => {
    const figure = make("figure"), canvas = figure.appendChild(make("canvas"));
    draw(canvas, image, found.steps[at - 1], at);
    canvas.onclick = () => { clearInterval(timer); show(at); };
    figure.append(make("figcaption", `${at}: ${found.error[at].toPrecision(2)}`));
    return figure;
  }));
  $("play").hidden = false;
  let at = 0;
  show(0);
  clearInterval(timer);
  timer = setInterval(() => show(at = (at + 1) % images.length), 700);
}

const drop = $("drop");
drop.ondragover = event => { event.preventDefault(); drop.className = "over"; };
drop.ondragleave = () => { drop.className = ""; };
drop.ondrop = event => {
  event.preventDefault();
  drop.className = "";
  if (event.dataTransfer.files.length) reconstruct(event.dataTransfer.files[0]).catch(tell);
};
$("file").onchange = event => reconstruct(event.target.files[0]).catch(tell);

// The token goes into a cookie that no script can read; nothing of it stays in this page, in an address or in a log.
$("enter").onsubmit = async event => {
  event.preventDefault();
  const body = JSON.stringify({ token: $("token").value.trim() });
  $("token").value = "";
  try {
    await call("/session", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    location.reload();
  } catch (error) { $("refused").textContent = error.message; }
};
$("leave").onclick = () => call("/session", { method: "DELETE" }).then(() => location.reload(), tell);
call("/session").then(({ needs_tokens }) => { hasDoor = needs_tokens; $("leave").hidden = !hasDoor; }, () => {});

refresh();
readiness();
setInterval(() => document.hidden || refresh(), 2000);
setInterval(() => document.hidden || readiness(), 10000);
