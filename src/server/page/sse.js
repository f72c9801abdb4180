// Server-sent events, from the pieces in which a response arrives.

const LONGEST_EVENT = 16 << 20;

/** Takes text in any pieces; `data` fields of events come out. */
export class EventParser {
  #rest = "";
  #data = [];
  #size = 0;

  /**
   * @param {string} text what arrived
   * @returns {string[]} the data of the events that it completed
   */
  push(text) {
    const events = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/); // a "\r" at the end may be half of "\r\n"
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line, events);
    if (this.#rest.length + this.#size > LONGEST_EVENT) throw new RangeError("an event of the stream is longer than 16 MiB");
    return events;
  }

  #line(line, events) {
    if (line === "") {
      if (this.#data.length) events.push(this.#data.join("\n"));
      this.#data = [];
      this.#size = 0;
    } else if (line.startsWith("data:")) {
      const data = line.slice(line[5] === " " ? 6 : 5);
      this.#data.push(data);
      this.#size += data.length;
    }
  }
}

/**
 * The data of each event of a response's body; characters may be split anywhere.
 * @param {ReadableStream<Uint8Array>} body
 */
export async function* eventsOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // an event that was not completed is none
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, as the loop above has said
  }
}
