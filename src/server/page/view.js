// One message on the page.
import { MarkdownView, element } from "./render.js";

const SHARE = 8; // at most one part in so many of the time goes into showing what arrives

const ENDS = {
  length: "Stopped at the limit of tokens.",
  stopped: "Stopped.",
  broken: "",
  cut: "Cut off when the page was closed.",
};

const button = (action, text, label) => element("button", { type: "button", class: "quiet", "data-action": action, "aria-label": label }, text);

/** @param {number} value */
export const number = (value, digits = 0) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Tokens a second from the first to the last; null: too few to say. */
export function rateOf(tokens, seconds) {
  return tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null;
}

export class MessageView {
  /** @param {import("./conversation.js").Message} message */
  constructor(message) {
    this.message = message;
    this.running = false;
    this.shown = { content: 0, reasoning: 0 };
    this.frame = 0;
    this.notBefore = 0;
    const mine = message.role === "user";
    this.meta = element("span", { class: "meta" });
    this.body = element("div", { class: mine ? "text" : "markdown" });
    this.markdown = mine ? null : new MarkdownView(this.body);
    this.fault = element("p", { class: "fault" });
    this.hint = element("p", { class: "hint", hidden: true });
    this.versions = element("span", { role: "group", "aria-label": "Versions", hidden: true },
      button("previous", "‹", "Previous version"), element("span", { class: "place" }), button("next", "›", "Next version"));
    this.actions = element("div", { class: "actions" }, this.versions, button("copy", "Copy", "Copy the message"),
      button("edit", "Edit", "Edit the message"), mine ? null : button("again", "Regenerate", "Regenerate the answer"));
    this.thoughts = null;
    this.node = element("article", { class: message.role, "data-id": message.id, "aria-label": mine ? "Your message" : "Answer" },
      element("header", {}, element("h3", { class: "role" }, mine ? "You" : "Model"), this.meta), this.body, this.fault, this.hint, this.actions);
    this.flush();
  }

  /**
   * Shows what the message has by now, and what can be done with it.
   * @param {{running: boolean, busy: boolean, place: number, count: number}} state running: it is being written; busy: an
   *   answer of its conversation is; place, count: which of its siblings it is
   */
  show({ running, busy, place, count }) {
    this.running = running;
    this.node.setAttribute("aria-busy", String(running));
    this.versions.hidden = count < 2;
    this.versions.querySelector(".place").textContent = `${place + 1}/${count}`;
    this.versions.querySelector(".place").setAttribute("aria-label", `Version ${place + 1} of ${count}`);
    this.#button("previous").disabled = place === 0;
    this.#button("next").disabled = place + 1 >= count;
    for (const action of ["edit", "again"]) {
      const control = this.#button(action);
      if (control) control.disabled = busy;
    }
    if (this.editor) this.editDone.disabled = busy;
    this.flush();
  }

  #button(action) {
    return this.actions.querySelector(`[data-action="${action}"]`);
  }

  /** What arrived is shown with the next picture, or a later one where showing takes long. */
  later() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (performance.now() < this.notBefore) this.later();
      else this.flush();
    });
  }

  flush() {
    const begin = performance.now();
    this.#showReasoning();
    const text = this.message.content.slice(this.shown.content);
    this.shown.content = this.message.content.length;
    if (text && this.markdown) this.markdown.append(text);
    else if (text) this.body.append(text);
    this.#showEnd();
    if (this.running) this.node.getBoundingClientRect(); // lays it out now, as part of what is timed
    this.notBefore = performance.now() + (SHARE - 1) * (performance.now() - begin);
  }

  #showReasoning() {
    const { reasoning = "", thinkingSeconds } = this.message;
    if (!reasoning) return;
    if (!this.thoughts) {
      this.thoughts = document.createTextNode("");
      this.summary = element("summary");
      this.body.before(element("details", {}, this.summary, element("div", { class: "thoughts" }, this.thoughts)));
    }
    this.thoughts.appendData(reasoning.slice(this.shown.reasoning));
    this.shown.reasoning = reasoning.length;
    const thinking = this.running && !this.message.content;
    const words = thinking ? "Thinking…" : thinkingSeconds === undefined ? "Thoughts" : `Thought for ${number(thinkingSeconds, 1)} s`;
    if (this.summary.textContent !== words) this.summary.textContent = words;
  }

  #showEnd() {
    const { role, model, tokens, seconds, end, error } = this.message;
    if (role === "user") return;
    const rate = rateOf(tokens, seconds);
    const facts = [model, tokens && `${number(tokens)} tokens`, rate && `${number(rate, 1)} tokens/s`];
    if (!this.running) this.meta.textContent = facts.filter(Boolean).join(" · ");
    this.fault.textContent = error ?? "";
    this.hint.textContent = this.running ? "" : ENDS[end ?? "cut"] ?? "";
    this.hint.hidden = !this.hint.textContent;
  }

  /** The rate while an answer is written; pieces are about tokens. */
  showRate(pieces, seconds) {
    const rate = rateOf(pieces, seconds);
    this.meta.textContent = rate ? `about ${number(rate, 1)} tokens/s` : "";
  }

  /** Opens the message for editing. @param {(text: string) => boolean} save whether it took the new text */
  edit(save) {
    if (this.editor) return;
    const area = element("textarea", { rows: "4", "aria-label": "Edited message" });
    area.value = this.message.content;
    const close = () => {
      this.editor.remove();
      this.editor = null;
      this.body.hidden = this.actions.hidden = false;
      this.#button("edit").focus();
    };
    const accept = () => {
      if (!this.editDone.disabled && save(area.value)) close();
    };
    const mine = this.message.role === "user";
    const done = this.editDone = element("button", { type: "button", class: "primary" }, mine ? "Send" : "Save");
    const cancel = element("button", { type: "button" }, "Cancel");
    done.onclick = accept;
    cancel.onclick = close;
    this.editor = element("div", { class: "edit" }, area, element("div", { class: "bar end" }, cancel, done));
    this.editor.onkeydown = (event) => {
      if (event.key === "Escape") close();
      else if (mine && event.target === area && event.key === "Enter" && !event.shiftKey && !event.isComposing) accept();
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    this.body.hidden = this.actions.hidden = true;
    this.body.after(this.editor);
    area.focus();
  }
}
