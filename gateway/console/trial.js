/**
 * The form that asks for the action of one observation: while its sliders move, or of any other
 * form than speed, steering and sensors, as text that is sent, with the images that are shown.
 */

import { ActionBars } from "./action.js";
import { ServiceError } from "./service.js";
import { Sight } from "./sight.js";

const element = (id) => document.getElementById(id);

export class Trial {
  #service;
  #version;
  #answered;
  #offered = "";
  #bars = new ActionBars(element("try-action"));
  #sliders = [];
  #sight = new Sight(() => this.ask());
  #asking = false;
  #waiting = false;

  /**
   * `version()` gives the version to ask, the active one where it is empty; `answered(version)` is
   * told which one answered, an empty one where the observation was refused.
   */
  constructor(service, version, answered) {
    this.#service = service;
    this.#version = version;
    this.#answered = answered;
    element("try").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    element("try").addEventListener("input", ({ target }) => {
      if (target.id !== "try-json") this.ask();
    });
  }

  /** Have a slider for each of the policy's sensors; a text where it has another form. */
  offer(metadata) {
    const { version, sensors, exampleObservation } = metadata;
    const text = sensors === null;
    element("try-text").hidden = !text;
    if (this.#offered !== version) this.#sight.offer(metadata);
    if (text && this.#offered !== version) this.#write(exampleObservation);
    this.#offered = version;
    if (this.#sliders.length === (text ? 0 : 2 + sensors)) return;
    element("try-fields").replaceChildren();
    this.#sliders = text ? [] : [
      slider("Speed", 0, 200, 0.5, 25.5, " km/h"),
      slider("Steering", -1, 1, 0.01, 0.1),
      ...Array.from({ length: sensors }, (_, i) =>
        slider(`Sensor ${i + 1}`, 0, 1, 0.01, [0.8, 0.2, 0.5, 0.9, 0.1][i] ?? 0.5),
      ),
    ];
  }

  /** Put the sliders where an observation is, as near as their steps allow. */
  take({ speed, steering, sensors }) {
    [speed, steering, ...sensors].forEach((value, i) => this.#sliders[i]?.set(value));
    this.ask();
  }

  /** Ask now, or as soon as the answer under way has come. */
  async ask() {
    const sampled = !element("try-deterministic").checked;
    element("try-seed").disabled = !sampled;
    if (!this.#offered) return;
    this.#waiting = true;
    if (this.#asking) return;
    this.#asking = true;
    while (this.#waiting) {
      this.#waiting = false;
      await this.#once();
    }
    this.#asking = false;
  }

  #request() {
    const [speed, steering, ...sensors] = this.#sliders.map((one) => one.value);
    const text = this.#sliders.length === 0;
    const seen = text ? this.#read() : { speed, steering, sensors };
    const request = { observations: [seen] };
    const seed = element("try-seed").valueAsNumber;
    if (element("try-deterministic").checked) request.deterministic = true;
    else if (!Number.isNaN(seed)) request.seed = seed; // else the gateway draws one
    const version = this.#version();
    return version ? { ...request, version } : request;
  }

  /** Put an observation into the text, with null in the place of its images. */
  #write(observation) {
    const rest = this.#sight.take(observation);
    element("try-json").value = JSON.stringify(rest, null, 2);
    return rest;
  }

  #read() {
    return this.#sight.fill(this.#write(JSON.parse(element("try-json").value)));
  }

  async #once() {
    let trouble = "";
    try {
      const answer = await this.#service.predict(this.#request());
      this.#show(answer.actions[0]);
      const seed = "seed" in answer ? `, seed ${answer.seed}` : ", deterministic";
      element("try-note").textContent = `${answer.version}${seed}, ${answer.timingMs.toFixed(2)} ms`;
      this.#answered(answer.version);
    } catch (error) {
      if (error.code === "VALIDATION_ERROR") this.#answered("");
      if (error instanceof SyntaxError) trouble = `No JSON: ${error.message}`;
      else if (error instanceof ServiceError) trouble = `${error.code}: ${error.message}`;
      else throw error;
      this.#show(null);
      element("try-note").textContent = "";
    }
    element("try-error").textContent = trouble;
  }

  /** Show a control as bars, and what else an action has as JSON. */
  #show(action) {
    const control = action === null || action.throttle !== undefined;
    const plain = control && Object.keys(action ?? {}).length <= 3;
    this.#bars.show(control ? action : null);
    element("try-action").hidden = !control;
    element("try-own").hidden = plain;
    element("try-own").textContent = plain ? "" : JSON.stringify(action);
  }
}

function slider(name, min, max, step, value, unit = "") {
  const label = document.createElement("label");
  const [title, input, output] = ["span", "input", "output"].map((tag) =>
    document.createElement(tag),
  );
  title.textContent = name;
  Object.assign(input, { type: "range", min, max, step, value });
  input.id = `try-${name.toLowerCase().replace(" ", "-")}`;
  const show = () => {
    output.textContent = input.valueAsNumber.toFixed(step < 0.1 ? 2 : 1).replace("-", "−") + unit;
  };
  input.addEventListener("input", show);
  show();
  label.append(title, input, output);
  element("try-fields").append(label);
  return {
    get value() {
      return input.valueAsNumber;
    },
    set(to) {
      input.value = to;
      show();
    },
  };
}
