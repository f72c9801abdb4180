// The list of conversations.
import { byId } from "./page.js";
import { element } from "./render.js";

const list = byId("conversations");
const narrow = byId("open-sidebar");
const drawer = byId("sidebar");

const nameOf = (conversation) => conversation.title || "New chat";

function toggle(shown) {
  drawer.classList.toggle("shown", shown);
  narrow.setAttribute("aria-expanded", String(shown));
}

/** On narrow pages the list is a drawer over the conversation. */
function wireDrawer() {
  const hide = () => {
    if (!drawer.classList.contains("shown")) return;
    toggle(false);
    narrow.focus();
  };
  narrow.onclick = () => {
    toggle(true);
    byId("new-chat").focus();
  };
  byId("close-sidebar").onclick = hide;
  drawer.onkeydown = (event) => {
    if (event.key !== "Escape" || !drawer.classList.contains("shown")) return;
    hide();
    event.stopPropagation();
  };
}

/** The title becomes a field; Enter or leaving it keeps what was written. */
function rename(item, keep) {
  const open = item.querySelector(".open");
  const field = element("input", { "aria-label": "Title" });
  field.value = item.dataset.title;
  let over = false;
  const end = (kept) => {
    if (over) return;
    over = true;
    field.replaceWith(open);
    open.focus();
    if (kept && field.value.trim()) keep(field.value.trim());
  };
  field.onkeydown = (event) => {
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    event.stopPropagation();
    end(event.key === "Enter");
  };
  field.onblur = () => end(true);
  open.replaceWith(field);
  field.select();
}

function itemOf(conversation, current) {
  const title = nameOf(conversation);
  const tool = (action, text) => element("button", { type: "button", class: "quiet", "data-action": action, "aria-label": `${text} “${title}”` }, text);
  return element("li", { class: current ? "current" : null, "data-id": conversation.id, "data-title": title },
    element("button", { type: "button", class: "open", "data-action": "open", "aria-current": current ? "true" : null }, title),
    element("div", { class: "tools" }, tool("rename", "Rename"), tool("save", "Export"), tool("remove", "Delete")));
}

/**
 * @param {object} act
 * @param {(id: string) => void} act.open @param {(id: string) => void} act.remove @param {(id: string) => void} act.save
 * @param {(id: string, title: string) => void} act.rename
 * @returns {(conversations: Iterable<import("./conversation.js").Conversation>, current: string) => void} shows them
 */
export function makeSidebar(act) {
  wireDrawer();
  list.onclick = (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { action } = button.dataset;
    const item = button.closest("li");
    if (action === "open") toggle(false);
    if (action === "rename") rename(item, (title) => act.rename(item.dataset.id, title));
    else act[action](item.dataset.id);
  };
  return (conversations, current) => {
    if (list.querySelector("input")) return; // it is shown again when the title is written
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    const [id, action] = [focused?.closest("li").dataset.id, focused?.dataset.action];
    list.replaceChildren(...[...conversations].sort((a, b) => b.updated - a.updated)
      .map((conversation) => itemOf(conversation, conversation.id === current)));
    if (focused) list.querySelector(`li[data-id="${CSS.escape(id)}"] [data-action="${action}"]`)?.focus();
  };
}
