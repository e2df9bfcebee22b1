/** The cars on the track, and the clock that they share. */

import { Driver } from "./driver.js";
import { Figures } from "./figures.js";
import { Track } from "./track.js";

export const MOST_CARS = 20;

const GOLDEN = (Math.sqrt(5) - 1) / 2; // its multiples spread starts evenly, however many there are
const SLOWEST_TICK_MS = 20;

export class Fleet {
  track = new Track();
  figures = new Figures();
  drivers = [];
  speed = 1; // times real time
  version = ""; // asked for with each step; the active one where empty
  deterministic = true;
  repeat = 1; // steps for which an answer holds
  stateful = false; // whether the policy has a memory

  #open = false;
  #driving = false;
  #timer = 0;

  /** `failed(error)` is told of each error frame, `lost()` where a connection ended. */
  constructor(service, { failed, lost }) {
    this.service = service;
    this.failed = failed;
    this.lost = lost;
  }

  get driving() {
    return this.#driving;
  }

  /** Have so many cars, each with a connection of its own. */
  resize(count) {
    while (this.drivers.length > count) this.drivers.pop().close();
    while (this.drivers.length < count) {
      const number = this.drivers.length + 1;
      const start = this.track.length * (((number - 1) * GOLDEN) % 1);
      const driver = new Driver(this, number, start);
      this.drivers.push(driver);
      if (this.#open) driver.connect();
      if (this.#driving) driver.resume(performance.now());
    }
  }

  connect() {
    if (this.#open) return;
    this.#open = true;
    for (const driver of this.drivers) driver.connect();
  }

  close() {
    this.#open = false;
    for (const driver of this.drivers) driver.close();
  }

  drive() {
    if (this.#driving) return;
    this.#driving = true;
    const now = performance.now();
    for (const driver of this.drivers) driver.resume(now);
    this.#tick();
  }

  pause() {
    this.#driving = false;
    clearTimeout(this.#timer);
  }

  /** Put every car back to where it started, and count from nothing. */
  restart() {
    this.figures.clear();
    const now = performance.now();
    for (const driver of this.drivers) {
      driver.restart();
      if (this.#driving) driver.resume(now);
    }
  }

  /** Look again who can drive: an answer has come. */
  wake() {
    if (this.#driving) this.#tick();
  }

  #tick() {
    clearTimeout(this.#timer);
    const now = performance.now();
    for (const driver of this.drivers) driver.advance(now);
    const next = Math.min(...this.drivers.map((driver) => driver.due)) - performance.now();
    const wait = Math.min(SLOWEST_TICK_MS, Math.max(1, next));
    this.#timer = setTimeout(() => this.#tick(), wait);
  }
}
