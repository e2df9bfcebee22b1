/** The page: what its controls do, and what it shows of the fleet. */

import { ActionBars } from "./action.js";
import { Sparkline, TrackView } from "./drawing.js";
import { KEPT, percentiles } from "./figures.js";
import { Fleet, MOST_CARS } from "./fleet.js";
import { Service, ServiceError } from "./service.js";
import { CarTable, told } from "./table.js";
import { DT } from "./track.js";
import { Trial } from "./trial.js";
import { Trouble } from "./trouble.js";

const UPDATE_MS = 200;
const ASK_AGAIN_MS = 2000;
const RECOVERED_MS = 8000;
const RANGE_FINDERS = 5; // of a car on the track

const element = (id) => document.getElementById(id);
const set = (id, text) => {
  if (element(id).textContent !== text) element(id).textContent = text;
};
const whole = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
const still = matchMedia("(prefers-reduced-motion: reduce)");

const service = new Service();
const trouble = new Trouble();
const fleet = new Fleet(service, {
  failed: (error) => report(error),
  lost: () => diagnose(),
});
const view = new TrackView(element("ground-canvas"), element("track-canvas"), fleet.track);
const sparkline = new Sparkline(element("latency-canvas"));
const table = new CarTable((number) => choose(fleet.drivers[number - 1]));
const bars = new ActionBars(element("car-action"));
const trial = new Trial(service, () => fleet.version, (version) => {
  if (!fleet.version && version !== served.active) learn().catch(report);
});

let chosen; // the selected driver
let paused = still.matches; // by the user, who may have asked for less motion
let news = { text: "", until: 0 };
let served = { active: "", versions: [] };
let learnedAt = 0; // when it was last asked what is served
let drives = false; // whether the active policy drives the track's cars
let diagnosing = false;
let before = { at: performance.now(), count: 0, steps: 0, driver: null };

function report(error) {
  trouble.report(error, fleet.figures.fallback);
  if (error.code === "UNAUTHORIZED") fleet.close(); // until there is a key
  const changed = error.code === "VALIDATION_ERROR" && drives; // to another signature, perhaps
  if (changed && performance.now() - learnedAt > ASK_AGAIN_MS) learn().catch(report);
}

/** Ask why there is no connection: a browser does not say what an upgrade was answered. */
async function diagnose() {
  if (diagnosing) return;
  diagnosing = true;
  const lost = new ServiceError("NO_CONNECTION", "A connection was lost.");
  report(await learn().then(() => lost, (error) => error));
  diagnosing = false;
}

/** Learn what is served, and offer it. */
async function learn() {
  learnedAt = performance.now();
  const [metadata, versions] = await Promise.all([service.metadata(), service.versions()]);
  served = versions;
  set("model", metadata.modelName);
  set("active", metadata.version);
  set("device", metadata.device.toUpperCase());
  const options = [new Option(`Active (${metadata.version})`, "")];
  const names = versions.versions.map((one) => one.version);
  if (fleet.version && !names.includes(fleet.version)) names.push(fleet.version);
  options.push(...names.map((name) => new Option(name, name)));
  element("version").replaceChildren(...options);
  element("version").value = fleet.version;
  describeVersion();
  trial.offer(metadata);
  fleet.repeat = metadata.repeat;
  fleet.stateful = metadata.stateful;
  drives = metadata.sensors === RANGE_FINDERS && metadata.control !== null;
  document.body.classList.toggle("plain", !drives);
  if (drives) fleet.connect();
  else fleet.close();
  go();
}

function describeVersion() {
  const name = fleet.version || served.active;
  const about = served.versions.find((one) => one.version === name)?.description ?? "";
  set("version-note", `${about} The switch asks for a version with each step; it promotes nothing.`.trim());
}

/** Begin, or begin again: with what is served, as soon as the gateway says. */
async function start() {
  try {
    await learn();
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    report(error);
    if (error.code !== "UNAUTHORIZED") setTimeout(start, ASK_AGAIN_MS);
    return;
  }
  if (trouble.error?.code === "UNAUTHORIZED") trouble.clear();
  trial.ask();
}

function go() {
  if (paused || document.hidden || !drives) fleet.pause();
  else fleet.drive();
  set("pause", paused ? "Drive" : "Pause");
}

function choose(driver) {
  chosen = driver;
  set("car-title", `Car ${driver.number}`);
  table.mark(driver.number);
}

function step(by) {
  const { drivers } = fleet;
  choose(drivers[(chosen.number - 1 + by + drivers.length) % drivers.length]);
}

function resize(count) {
  fleet.resize(count);
  element("cars").value = count;
  set("cars-output", String(count));
  table.resize(count);
  element("previous").disabled = element("next").disabled = count === 1;
  choose(fleet.drivers[Math.min(chosen?.number ?? 1, count) - 1]);
  element("track-note").hidden = count === 1;
  element("track-canvas").setAttribute("aria-label", `The example track with ${count} of its cars`);
}

function showCars() {
  table.show(fleet.drivers);
  for (const [name, text] of Object.entries(told(chosen))) set(`car-${name}`, text);
}

function showFigures() {
  const { figures } = fleet;
  const lines = element("latency").tBodies[0].rows;
  const shown = [[figures.roundTrips, 1], [figures.timings, 2]]; // a browser's clock has 0.1 ms
  shown.forEach(([values, digits], i) => {
    percentiles(values, [50, 95, 99]).forEach((value, cell) => {
      lines[i].cells[cell + 1].textContent = value === null ? "–" : value.toFixed(digits);
    });
  });
  set("answers", whole(figures.count));
  set("late", whole(figures.late));
  set("skipped", whole(figures.skipped));
  set("errors", whole(figures.errors));
  set("fallback", whole(figures.fallback));
  element("errors").classList.toggle("bad", figures.errors > 0);
  sparkline.draw(figures.history());
}

/** Figures over time: answers a second, and how fast the simulation really is. */
function showRates() {
  const now = performance.now();
  const took = (now - before.at) / 1000;
  if (took < 1) return;
  const { count } = fleet.figures;
  const { steps } = chosen.car;
  if (count >= before.count) set("rate", whole(Math.round((count - before.count) / took)));
  const factor = ((steps - before.steps) * DT) / took;
  const slow = before.driver === chosen && fleet.driving && factor > 0 && factor < 0.93 * fleet.speed;
  set("reached", slow ? `reaches ×${factor.toFixed(1)}` : "");
  before = { at: now, count, steps, driver: chosen };
}

function showState() {
  const driven = fleet.drivers.every((driver) => driver.isAnswered);
  const well = drives ? driven && fleet.driving : served.active !== "";
  const recovered = trouble.update(well, fleet.figures.fallback);
  if (recovered) news = { text: recovered, until: performance.now() + RECOVERED_MS };
  const state = [
    [trouble.error?.code === "UNAUTHORIZED", "locked", "Needs an API key"],
    [trouble.error && fleet.driving, "trouble", "Trouble: cars on their fallback"],
    [trouble.error, "trouble", "Trouble"],
    [served.active && !drives, "driving", "Ready"],
    [paused, "paused", "Paused"],
    [!fleet.driving || !chosen.version, "connecting", "Connecting"],
    [fleet.drivers.some((one) => one.isBraking), "trouble", "No answers: cars brake"],
    [performance.now() < news.until, "driving", news.text],
    [true, "driving", "Driving"],
  ].find(([holds]) => holds);
  element("state").dataset.state = state[1];
  set("state", state[2]);
  const promoted = drives && !fleet.version && chosen.version && chosen.version !== served.active;
  if (promoted && performance.now() - learnedAt > ASK_AGAIN_MS) learn().catch(report);
}

function draw() {
  view.draw(fleet, chosen, performance.now());
  bars.show(chosen.action);
  requestAnimationFrame(draw);
}

function listen() {
  element("pause").addEventListener("click", () => {
    paused = !paused;
    go();
  });
  element("restart").addEventListener("click", () => fleet.restart());
  element("cars").addEventListener("input", ({ target }) => resize(target.valueAsNumber));
  element("speed").addEventListener("change", ({ target }) => {
    fleet.speed = Number(target.value);
  });
  element("kind").addEventListener("change", ({ target }) => {
    fleet.deterministic = target.value === "mean";
  });
  element("version").addEventListener("change", ({ target }) => {
    fleet.version = target.value;
    learnedAt = performance.now();
    describeVersion();
    trial.ask();
  });
  element("previous").addEventListener("click", () => step(-1));
  element("next").addEventListener("click", () => step(1));
  element("take").addEventListener("click", () => trial.take(chosen.car.observation()));
  element("track-canvas").addEventListener("click", ({ clientX, clientY }) =>
    choose(view.nearest(fleet.drivers, clientX, clientY, performance.now())),
  );
  element("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    service.key = element("key").value.trim();
    element("key").value = "";
    start();
  });
  document.addEventListener("visibilitychange", go);
  document.addEventListener("keydown", (event) => {
    const taken = event.target.closest("input, select, button, .scroll");
    if (taken || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      " ": () => element("pause").click(),
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    view.restyle();
    sparkline.restyle();
  });
}

/** Take from the address what it asks for: `?cars=8&speed=4&version=v0.1.0`. */
function readAddress() {
  const asked = new URLSearchParams(location.search);
  fleet.version = asked.get("version") ?? "";
  const speed = element("speed").querySelector(`[value="${Number(asked.get("speed"))}"]`);
  if (speed) {
    speed.checked = true;
    fleet.speed = Number(speed.value);
  }
  const cars = Math.round(Number(asked.get("cars"))) || 1;
  resize(Math.min(MOST_CARS, Math.max(1, cars)));
}

function show() {
  showState();
  showCars();
  showFigures();
  showRates();
}

listen();
set("kept", whole(KEPT));
readAddress();
show();
setInterval(show, UPDATE_MS);
requestAnimationFrame(draw);
start();
