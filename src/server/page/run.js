// An answer while it is written.
import { requestOf } from "./conversation.js";

const BUSY = { 429: "The server is busy", 503: "The server is not ready" }; // answers that may say when to ask again
const MOST_TRIES = 4;
const LONGEST_WAIT = 120; // seconds that a busy server may ask for

const aborted = () => new DOMException("stopped", "AbortError");

export class Run {
  #stop = new AbortController();
  pieces = 0;
  first = null; // when the first piece came
  last = null;
  waiting = ""; // why nothing comes yet, in words
  fault = null;

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./conversation.js").Conversation} conversation
   * @param {import("./conversation.js").Message} message the answer, empty
   * @param {() => void} changed called after each piece
   */
  constructor(api, conversation, message, changed) {
    Object.assign(this, { api, conversation, message, changed });
  }

  stop() {
    this.#stop.abort();
  }

  get seconds() {
    return this.first === null ? 0 : (this.last - this.first) / 1000;
  }

  /** Writes the answer; how it ended is in the message. */
  async go() {
    try {
      await this.#try();
      this.message.end ??= "complete";
    } catch (error) {
      this.message.end = error.name === "AbortError" ? "stopped" : "broken";
      if (error.name === "AbortError") return;
      this.fault = error;
      this.message.error = error.message;
    } finally {
      if (this.seconds > 0) this.message.seconds = this.seconds;
      this.#endThinking();
    }
  }

  async #try() {
    for (let tries = 1; ; tries++) {
      try {
        await this.#read();
        return;
      } catch (error) {
        const { status, retryAfter = null } = error;
        if (!BUSY[status] || retryAfter === null || retryAfter > LONGEST_WAIT || tries === MOST_TRIES) throw error;
        await this.#wait(BUSY[status], retryAfter);
      }
    }
  }

  async #read() {
    for await (const piece of this.api.chat(requestOf(this.conversation, this.message.parent), this.#stop.signal)) {
      this.#take(piece);
      this.changed();
    }
  }

  #take({ content, reasoning, finish, usage }) {
    const { message } = this;
    if (content || reasoning) {
      this.pieces++;
      this.last = performance.now();
      this.first ??= this.last;
    }
    if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
    if (content) {
      this.#endThinking();
      message.content += content;
    }
    if (finish) message.end = finish === "length" ? "length" : "complete";
    if (usage) {
      message.tokens = usage.completion_tokens;
      message.used = usage.prompt_tokens + usage.completion_tokens;
    }
  }

  #endThinking() {
    const { message } = this;
    if (message.reasoning && message.thinkingSeconds === undefined) message.thinkingSeconds = (performance.now() - this.first) / 1000;
  }

  /** Waits as a busy server asked, counting down. */
  async #wait(why, seconds) {
    for (let left = seconds; left > 0; left--) {
      this.waiting = `${why}; trying again in ${left} s.`;
      this.changed();
      await new Promise((resolve, reject) => {
        const stopped = () => {
          clearTimeout(timer);
          reject(aborted());
        };
        const timer = setTimeout(() => {
          this.#stop.signal.removeEventListener("abort", stopped);
          resolve();
        }, 1000);
        this.#stop.signal.addEventListener("abort", stopped, { once: true });
      });
    }
    this.waiting = "";
    this.changed();
  }
}
