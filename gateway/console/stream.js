/** One car's connection: a frame for each step, and another connection where one was lost. */

import { ServiceError } from "./service.js";

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 2000;
const MOST_OPEN_STEPS = 40; // two seconds of silence at twenty steps a second

export class Stream {
  #service;
  #listener;
  #socket = null;
  #timer = 0;
  #tries = 0;
  #nextStep = 0;
  #sentAt = new Map();

  /**
   * `listener` is told of what comes: `answered(stepId, frame, roundTripMs)`, `skipped(stepId)`,
   * `failed(error)` for an error frame, `lost()` where there is no connection, or none any more.
   */
  constructor(service, listener) {
    this.#service = service;
    this.#listener = listener;
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    this.close();
    this.#socket = this.#service.stream();
    this.#socket.onmessage = ({ data }) => this.#read(JSON.parse(data));
    this.#socket.onclose = () => this.#lost();
  }

  /** End the connection, and the wait for another. */
  close() {
    clearTimeout(this.#timer);
    this.#sentAt.clear();
    if (this.#socket) this.#socket.onclose = this.#socket.onmessage = null;
    this.#socket?.close();
    this.#socket = null;
  }

  /** Send a step; its id, or null where there is no connection. */
  ask(step) {
    if (!this.isOpen) return null;
    if (this.#sentAt.size >= MOST_OPEN_STEPS) {
      this.close();
      this.#lost();
      return null;
    }
    const stepId = this.#nextStep++;
    this.#sentAt.set(stepId, performance.now());
    this.#socket.send(JSON.stringify({ stepId, ...step }));
    return stepId;
  }

  #read(frame) {
    const sentAt = this.#sentAt.get(frame.stepId);
    this.#sentAt.delete(frame.stepId);
    if (frame.action) {
      this.#tries = 0;
      this.#listener.answered(frame.stepId, frame, performance.now() - sentAt);
    } else if (frame.skipped) {
      this.#listener.skipped(frame.stepId);
    } else {
      this.#listener.failed(ServiceError.of(frame));
    }
  }

  #lost() {
    this.#socket = null;
    this.#sentAt.clear();
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#tries++);
    this.#timer = setTimeout(() => this.connect(), wait * (0.5 + Math.random() / 2));
    this.#listener.lost();
  }
}
