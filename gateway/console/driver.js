/** One car that is driven over one connection, and what it does while no answer comes. */

import { Stream } from "./stream.js";
import { Car, DT } from "./track.js";

const PATIENCE_MS = 1000 * DT;
const MOST_BEHIND_MS = 100;
const HOLD_STEPS = 4;
const FALLBACK_BRAKE = 0.5;
const TRAIL_STEPS = 160;
const MOST_MARKS = 20;

/**
 * Each step is driven with the answer to its own observation. An answer has `DT` of real time: at
 * normal speed the simulation never waits for it, faster ones wait so long at most. A step whose
 * answer is not there has the fallback's action, by the rule of `carlarl_client.Fallback`.
 */
export class Driver {
  answer = null; // to the observation that was asked last
  action = { throttle: 0, brake: 0, steer: 0 }; // of the last step
  version = "";
  missed = 0; // steps without an answer in a row
  trail = [];
  marks = []; // where it left the track

  #fleet;
  #stream;
  #askedAt = 0;
  #asked = null;
  #left = 0; // steps for which the last answer still holds
  #starts = false; // whether an episode starts with the next step
  #remembers = ""; // the version whose episode it is
  #firstAsked = null; // since it drives without a break
  #looks = 0; // at a step whose answer is overdue
  #last = null;
  #from = null;
  #steppedAt = 0;

  constructor(fleet, number, start) {
    this.#fleet = fleet;
    this.number = number;
    this.start = start;
    this.#stream = new Stream(fleet.service, {
      answered: (stepId, frame, roundTripMs) => this.#answered(stepId, frame, roundTripMs),
      skipped: () => fleet.figures.skipped++,
      failed: (error) => {
        fleet.figures.errors++;
        fleet.failed(error);
      },
      lost: () => fleet.lost(),
    });
    this.restart();
  }

  /** Whether it goes by answers; a few late ones are no trouble yet. */
  get isAnswered() {
    return this.#stream.isOpen && !this.isBraking;
  }

  /** Whether it brakes for want of answers. */
  get isBraking() {
    return this.missed > HOLD_STEPS;
  }

  connect() {
    this.#stream.connect();
  }

  close() {
    this.#stream.close();
  }

  restart() {
    this.car = new Car(this.#fleet.track, this.start);
    this.#from = pose(this.car);
    this.#last = this.answer = this.#asked = null;
    this.#left = 0;
    this.#starts = true;
    this.action = { throttle: 0, brake: 0, steer: 0 };
    this.missed = 0;
    this.trail = [];
    this.marks = [];
    this.due = 0;
  }

  /** Begin again to step, from `now` on. */
  resume(now) {
    this.due = now;
    this.#left = 0;
    this.#ask(now);
    this.#firstAsked = this.#asked;
  }

  /** Drive the step that is due, where its answer has come or has been waited for. */
  advance(now) {
    if (now < this.due) return;
    if (!this.version && this.#asked === null) {
      this.resume(now); // not connected yet: nothing is missed
      this.due += this.#interval;
      return;
    }
    if (!this.answer) {
      if (now < this.#askedAt + PATIENCE_MS) return;
      // After a pause of the browser, clocks are told before answers that came meanwhile.
      this.#looks++;
      if (this.#looks === 1) return;
    }
    if (this.answer) {
      this.#last = this.action = this.answer;
      this.missed = 0;
    } else {
      this.missed++;
      this.action = this.#fallback();
      this.#fleet.figures.fallback++;
    }
    this.#from = pose(this.car);
    this.car.step(this.action);
    this.#steppedAt = now;
    if (this.car.leftTrack) {
      this.marks = [...this.marks, [this.#from.x, this.#from.y]].slice(-MOST_MARKS);
      this.trail = [];
      this.#from = pose(this.car);
      this.#starts = true;
    }
    this.trail.push([this.#from.x, this.#from.y]);
    if (this.trail.length > TRAIL_STEPS) this.trail.shift();
    this.due = Math.max(this.due + this.#interval, now - MOST_BEHIND_MS);
    this.#ask(now);
  }

  /** Where it is drawn: between its last two steps. */
  poseAt(now) {
    const share = Math.min(1, (now - this.#steppedAt) / this.#interval);
    const to = pose(this.car);
    const at = (name) => this.#from[name] + share * (to[name] - this.#from[name]);
    return { x: at("x"), y: at("y"), heading: at("heading") };
  }

  get #interval() {
    return (1000 * DT) / this.#fleet.speed;
  }

  #ask(now) {
    if (this.#left > 0 && this.missed === 0) {
      this.#left--;
      this.answer = this.#last;
      return;
    }
    this.answer = null;
    this.#looks = 0;
    this.#askedAt = now;
    const { version, deterministic } = this.#fleet;
    const step = { observation: this.car.observation(), deterministic };
    if (version) step.version = version;
    // Without a memory a stream that names its episodes would no more follow a promotion at once.
    if (this.#fleet.stateful && (this.#starts || this.#remembers !== version)) {
      step.episodeStart = true;
    }
    this.#asked = this.#stream.ask(step);
    if (this.#asked === null) return;
    this.#starts = false;
    this.#remembers = version;
  }

  #answered(stepId, frame, roundTripMs) {
    if (stepId < this.#firstAsked) return; // of before a pause or a restart
    this.version = frame.version;
    this.#fleet.figures.answered(roundTripMs, frame.timingMs);
    if (stepId !== this.#asked) {
      this.#fleet.figures.late++;
      return;
    }
    this.answer = frame.action;
    this.#left = this.#fleet.repeat - 1;
    this.#fleet.wake();
  }

  #fallback() {
    if (this.#last && this.missed <= HOLD_STEPS) return this.#last;
    return { throttle: 0, brake: FALLBACK_BRAKE, steer: this.#last?.steer ?? 0 };
  }
}

function pose({ x, y, heading }) {
  return { x, y, heading };
}
