// What the parts of the page share: its elements, notices, questions, the clipboard and files.
import { element } from "./render.js";

export const byId = (id) => document.getElementById(id);

/** To the message field, but not on a touch screen, where its keyboard would cover the page. */
export function focusDraft() {
  if (!matchMedia("(pointer: coarse)").matches) byId("draft").focus();
}

const CLIPBOARD_SHOWN = 1500; // milliseconds

/** A line above the conversation that stays until it is dismissed, with at most one thing to do about it. */
export function notice(text, label = null, act = null) {
  byId("notice").hidden = !text;
  byId("notice-text").textContent = text;
  const button = byId("notice-action");
  button.hidden = !label;
  button.textContent = label;
  button.onclick = () => {
    notice("");
    act();
  };
}

/** What goes on, for the eye and for screen readers. */
export function status(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

/** Asks before something is deleted. @returns {Promise<boolean>} */
export function confirmDelete(question) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent = question;
  dialog.returnValue = "";
  byId("confirm-no").onclick = () => dialog.close("");
  byId("confirm-yes").onclick = () => dialog.close("yes");
  dialog.showModal();
  byId("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
  });
}

/** The clipboard's interface exists on HTTPS and localhost alone; elsewhere a selection is copied. */
async function writeClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement;
  const area = element("textarea", { class: "hidden", "aria-label": "What is copied" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused.focus();
  if (!copied) throw new Error("the browser refused");
}

/** Copies, and says so on the button for a moment. */
export async function copy(text, button) {
  const label = button.textContent;
  try {
    await writeClipboard(text);
    button.textContent = "Copied";
    status("Copied.");
  } catch (error) {
    button.textContent = "Not copied";
    status(`Not copied: ${error.message}`);
  }
  button.disabled = true; // until the label is back: a second press would take this one for it
  setTimeout(() => {
    button.textContent = label;
    button.disabled = false;
  }, CLIPBOARD_SHOWN);
}

export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
