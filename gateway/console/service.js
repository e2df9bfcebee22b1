/** The gateway's routes, and one kind of error for whatever keeps an answer away. */

const TIMEOUT_MS = 3000;

export class ServiceError extends Error {
  /** A code of the API or of this page, what it says, and the request's id where there is one. */
  constructor(code, message, requestId = "") {
    super(message);
    this.code = code;
    this.requestId = requestId;
  }

  /** Of the envelope that every error of the gateway has. */
  static of(envelope) {
    const problems = envelope.details?.validation_errors ?? [];
    const told = problems.slice(0, 3).map(({ field, message }) => `${field}: ${message}`);
    const message = [envelope.message, ...told].join("; ");
    return new ServiceError(envelope.error, message, envelope.details?.request_id);
  }
}

export class Service {
  /** The API key; kept in this object and nowhere else. */
  key = "";

  metadata() {
    return this.#ask("metadata");
  }

  versions() {
    return this.#ask("versions");
  }

  predict(request) {
    return this.#ask("predict", {
      method: "POST",
      body: JSON.stringify(request),
      headers: { "Content-Type": "application/json" },
    });
  }

  /** A WebSocket of the stream, on which each frame is one step of one car. */
  stream() {
    const url = new URL("stream", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const key = this.key ? [`carlarl.key.${this.key}`] : [];
    return new WebSocket(url, ["carlarl.v1", ...key]);
  }

  async #ask(path, { headers = {}, ...options } = {}) {
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), {
        ...options,
        headers: this.key ? { ...headers, "X-API-Key": this.key } : headers,
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch {
      throw new ServiceError("NO_CONNECTION", "The gateway does not answer.");
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && answer) return answer;
    if (answer?.error) throw ServiceError.of(answer);
    throw new ServiceError("NO_CONNECTION", `${path} answered ${response.status} without JSON.`);
  }
}
