// The conversation that is shown: its messages, what is done with them, and the answers being written.
import { addMessage, childrenOf, pathOf, select } from "./conversation.js";
import { byId, copy, focusDraft, status } from "./page.js";
import { Run } from "./run.js";
import { MessageView, number } from "./view.js";

const KEEP_EVERY = 2000; // milliseconds between two times that an answer being written is kept
const NEAR_END = 60; // pixels: who is so near the end follows what is written

const scroller = byId("scroller");
const log = byId("log");
const draft = byId("draft");

export class Chat {
  runs = new Map(); // id of a conversation -> the answer being written in it
  #views = new Map(); // id of a message -> its view, of those shown
  #follows = true;

  /**
   * @param {object} page
   * @param {import("./api.js").Api} page.api
   * @param {(conversation: object, final: boolean) => void} page.keep keeps what changed
   * @param {(fault: Error) => void} page.failed what to do about an answer's error
   * @param {() => string | null} page.model the model that is chosen
   * @param {() => number | null} page.context how many tokens it takes
   */
  constructor(page) {
    this.page = page;
    log.onclick = (event) => this.#clicked(event);
    scroller.onscroll = () => {
      this.#follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
      byId("to-end").hidden = this.#follows;
    };
    byId("to-end").onclick = () => {
      this.#toEnd();
      focusDraft();
    };
    byId("send").onclick = () => this.send();
    byId("stop").onclick = () => this.stop();
    draft.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    };
    draft.oninput = () => this.#fitDraft();
  }

  /** Shows a conversation. */
  open(conversation) {
    const other = this.conversation?.id !== conversation.id;
    this.conversation = conversation;
    if (other) {
      log.setAttribute("aria-live", "off"); // what was said before is not read aloud again
      this.#views.clear();
      log.replaceChildren();
      status("");
    }
    this.show();
    if (other) {
      this.#toEnd();
      requestAnimationFrame(() => log.setAttribute("aria-live", "polite"));
    }
  }

  /** Brings the page to the conversation's state; views of messages that are still shown stay. */
  show() {
    const { conversation } = this;
    const run = this.runs.get(conversation.id);
    const path = pathOf(conversation);
    const shown = new Set(path.map((message) => message.id));
    for (const [id, view] of this.#views) {
      if (shown.has(id)) continue;
      view.node.remove();
      this.#views.delete(id);
    }
    for (const message of path) {
      let view = this.#views.get(message.id);
      if (!view) {
        view = new MessageView(message);
        this.#views.set(message.id, view);
        log.append(view.node);
      }
      view.message = message;
      const siblings = childrenOf(conversation, message.parent);
      view.show({ running: run?.message === message, busy: run !== undefined, place: siblings.indexOf(message), count: siblings.length });
    }
    byId("title").textContent = conversation.title;
    document.title = conversation.title ? `${conversation.title} – Metal Marlin` : "Metal Marlin";
    byId("empty").hidden = path.length > 0;
    const moveFocus = document.activeElement === byId(run ? "send" : "stop"); // it is about to be hidden
    byId("send").hidden = run !== undefined;
    byId("stop").hidden = run === undefined;
    if (moveFocus) focusDraft();
    this.showContext();
    this.#scroll();
  }

  /** How much of the model's context the shown messages take, as the server counted with the last answer. */
  showContext() {
    const used = pathOf(this.conversation).findLast((message) => message.used !== undefined)?.used;
    const context = this.page.context();
    const meter = byId("context-meter");
    byId("context").hidden = used === undefined && context === null;
    meter.hidden = context === null;
    byId("context-text").textContent = `Context: ${number(used ?? 0)}${context === null ? "" : ` of ${number(context)}`} tokens`;
    if (context === null) return;
    meter.max = context;
    meter.high = 0.9 * context;
    meter.value = used ?? 0;
  }

  /** Sends what is in the message field. */
  send() {
    const text = draft.value.trim();
    if (!text || this.runs.has(this.conversation.id) || !this.#ready()) return;
    draft.value = "";
    this.#fitDraft();
    const last = pathOf(this.conversation).at(-1);
    this.#ask(last?.id ?? null, text);
    focusDraft();
  }

  stop() {
    this.runs.get(this.conversation?.id)?.stop();
  }

  #ready() {
    if (this.page.model() !== null) return true;
    this.page.failed(new Error("There is no model to ask: the server has not told which it has."));
    return false;
  }

  #ask(parent, text) {
    this.#answer(addMessage(this.conversation, parent, { role: "user", content: text }).id);
  }

  /** Writes an answer that follows a message. */
  async #answer(parent) {
    const { conversation } = this;
    const model = this.page.model();
    conversation.settings.model = model;
    const message = addMessage(conversation, parent, { role: "assistant", content: "", model });
    let kept = performance.now();
    const run = new Run(this.page.api, conversation, message, () => {
      this.#progress(run);
      if (performance.now() - kept < KEEP_EVERY) return;
      kept = performance.now();
      this.page.keep(conversation, false);
    });
    this.runs.set(conversation.id, run);
    this.#follows = true;
    this.page.keep(conversation, true);
    this.show();
    status("Answering…");
    await run.go();
    this.runs.delete(conversation.id);
    this.page.keep(conversation, true);
    if (this.conversation.id === conversation.id) {
      this.show();
      status({ complete: "Answer complete.", length: "Stopped at the limit of tokens.", stopped: "Stopped." }[message.end] ?? "The answer failed.");
    }
    if (run.fault) this.page.failed(run.fault);
  }

  #progress(run) {
    if (run.conversation.id !== this.conversation.id) return;
    const view = this.#views.get(run.message.id);
    if (!view) return; // another version is shown
    view.later();
    view.showRate(run.pieces, run.seconds);
    status(run.waiting || (run.message.content || !run.message.reasoning ? "Answering…" : "Thinking…"));
    this.#scroll();
  }

  #scroll() {
    if (!this.#follows || this.scrolling) return;
    this.scrolling = requestAnimationFrame(() => {
      this.scrolling = 0;
      if (this.#follows) this.#toEnd();
    });
  }

  #toEnd() {
    this.#follows = true;
    byId("to-end").hidden = true;
    scroller.scrollTop = scroller.scrollHeight;
  }

  /** Lets the message field grow where the browser does not by itself. */
  #fitDraft() {
    if (CSS.supports("field-sizing", "content")) return;
    draft.style.height = "auto";
    draft.style.height = `${draft.scrollHeight + 2}px`;
  }

  #clicked(event) {
    const button = event.target.closest("button[data-action]");
    if (!button) return;
    if (button.dataset.action === "copy-code") {
      copy(button.closest(".code").querySelector("pre").textContent, button);
      return;
    }
    const view = this.#views.get(button.closest("article").dataset.id);
    const { message } = view;
    switch (button.dataset.action) {
      case "copy": copy(message.content, button); break;
      case "previous": this.#step(message, -1); break;
      case "next": this.#step(message, 1); break;
      case "again":
        if (this.#ready()) this.#answer(message.parent);
        break;
      case "edit": view.edit((text) => this.#edited(message, text)); break;
      default: throw new TypeError(`no such action: ${button.dataset.action}`);
    }
  }

  /** An edited message is a new one beside the old; a question is asked again. False: it cannot be. */
  #edited(message, text) {
    if (message.role === "assistant") {
      addMessage(this.conversation, message.parent, { role: "assistant", content: text, end: "complete" });
      this.page.keep(this.conversation, true);
      this.show();
      return true;
    }
    if (!text.trim() || !this.#ready()) return false;
    this.#ask(message.parent, text.trim());
    focusDraft();
    return true;
  }

  /** Shows the version before or after; the button stays under the finger and in focus. */
  #step(message, by) {
    const siblings = childrenOf(this.conversation, message.parent);
    const next = siblings[siblings.indexOf(message) + by];
    if (!next) return;
    select(this.conversation, next);
    this.#follows = false;
    this.page.keep(this.conversation, false);
    this.show();
    const versions = this.#views.get(next.id).versions;
    const control = versions.querySelector(`[data-action="${by < 0 ? "previous" : "next"}"]`);
    (control.disabled ? versions.querySelector("button:not(:disabled)") : control).focus();
  }
}
