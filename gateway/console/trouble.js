/** What is wrong just now, said in one place, until answers have come for a while. */

const QUIET_MS = 1000;

const element = (id) => document.getElementById(id);

export class Trouble {
  #error = null;
  #count = 0;
  #since = 0;
  #last = 0;
  #fallback = 0;

  /** The error that is shown, or null. */
  get error() {
    return this.#error;
  }

  /** Show an error, of which more may follow; `fallback` counts the steps without an answer. */
  report(error, fallback) {
    const now = performance.now();
    this.#last = now;
    if (this.#error?.code === error.code && this.#error.message === error.message) {
      this.#count++;
      return;
    }
    if (!this.#error) {
      this.#since = now;
      this.#fallback = fallback;
    }
    this.#error = error;
    this.#count = 1;
    element("trouble-code").textContent = error.code;
    element("trouble-message").textContent = error.message;
    element("key-form").hidden = error.code !== "UNAUTHORIZED";
    element("trouble").hidden = false;
    if (error.code === "UNAUTHORIZED") element("key").focus();
  }

  /**
   * Bring it up to date; `driven` where every car has answers. Gives a sentence where the trouble
   * has just ended, else null.
   */
  update(driven, fallback) {
    if (!this.#error) return null;
    const now = performance.now();
    const seconds = ((now - this.#since) / 1000).toFixed(1);
    const steps = fallback - this.#fallback;
    if (driven && now - this.#last > QUIET_MS) {
      this.clear();
      return `Answered again after ${seconds} s: ${steps} steps on the fallback`;
    }
    const parts = [
      this.#count > 1 && `${this.#count} times in ${seconds} s`,
      this.#error.requestId && `request ${this.#error.requestId}`,
      steps > 0 &&
        "cars without an answer repeat their last action for 4 steps, then brake: " +
          `${steps} such steps so far`,
    ];
    element("trouble-more").textContent = parts.filter(Boolean).join(" · ");
    return null;
  }

  clear() {
    this.#error = null;
    element("trouble").hidden = true;
  }
}
