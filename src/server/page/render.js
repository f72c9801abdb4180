// Markdown's blocks as DOM. Text becomes text nodes alone: nothing that a model wrote is ever read as HTML.
import { parseInline, safeUrl } from "./inline.js";
import { MarkdownStream } from "./markdown.js";

/** An element with attributes and children; null children are left out. */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function inlineNode(node) {
  switch (node.type) {
    case "text": return document.createTextNode(node.text);
    case "code": return element("code", {}, node.text);
    case "math": return element("code", { class: "math" }, node.text);
    case "break": return element("br");
    case "link": return link(node);
    default: return element(node.type, {}, ...node.children.map(inlineNode)); // em, strong, del
  }
}

/** A link, or where its address is none of those that are followed, its text and the address as text. */
function link({ url, children }) {
  const content = children.map(inlineNode);
  const href = safeUrl(url);
  if (href) return element("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...content);
  const fragment = document.createDocumentFragment();
  fragment.append(...content, ` (${url})`);
  return fragment;
}

const inline = (text) => parseInline(text).map(inlineNode);

/** A block that is on the page: `node`, and what its blocks became, which stand in `inside`. */
function entryOf(block, table) {
  const entry = { block, node: null, inside: null, entries: [] };
  switch (block.type) {
    case "paragraph":
      entry.node = element("p", {}, ...inline(block.text));
      break;
    case "heading": // the page's own headings are the first two levels
      entry.node = element(`h${Math.min(6, block.level + 2)}`, {}, ...inline(block.text));
      break;
    case "rule":
      entry.node = element("hr");
      break;
    case "code":
      fillCode(entry);
      break;
    case "row":
      entry.node = element("tr", {}, ...block.cells.map((cell, i) =>
        element(block.head ? "th" : "td", { class: table.aligns[i] ? `align-${table.aligns[i]}` : null, scope: block.head && "col" }, ...inline(cell))));
      break;
    case "table":
      entry.inside = element("tbody");
      entry.node = element("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, element("table", {}, entry.inside));
      break;
    case "list":
      entry.inside = entry.node = element(block.ordered ? "ol" : "ul", { start: block.ordered && block.first !== 1 && String(block.first) });
      break;
    case "item":
      entry.inside = entry.node = element("li");
      break;
    case "quote":
      entry.inside = entry.node = element("blockquote");
      break;
    default:
      throw new TypeError(`no such block: ${block.type}`);
  }
  if (entry.inside) entry.entries = patch(entry.inside, [], block.blocks, block);
  return entry;
}

function fillCode(entry) {
  const { language, text } = entry.block;
  entry.text = document.createTextNode(text);
  const name = language || "text";
  entry.node = element("div", { class: "code" },
    element("div", { class: "code-head" }, element("span", {}, name),
      element("button", { type: "button", "data-action": "copy-code", "aria-label": `Copy the ${name} code` }, "Copy")),
    element("pre", { tabindex: "0", "aria-label": `Code, ${name}` }, element("code", {}, entry.text)));
}

/** Whether `entry` could be made to show `block` without being built again. */
function update(entry, block) {
  const old = entry.block;
  if (old.type !== block.type) return false;
  if (block.type === "code") {
    if (old.language !== block.language) return false;
    if (block.text.startsWith(old.text)) entry.text.appendData(block.text.slice(old.text.length));
    else entry.text.data = block.text;
  } else {
    if (!entry.inside || old.ordered !== block.ordered || old.first !== block.first
      || String(old.aligns) !== String(block.aligns)) return false;
    entry.entries = patch(entry.inside, entry.entries, block.blocks, block);
  }
  entry.block = block;
  return true;
}

/** Makes the end of `parent`, where `entries` stand, show `blocks`; what did not change is left alone. */
function patch(parent, entries, blocks, container = null) {
  const made = blocks.map((block, i) => {
    const old = entries[i];
    if (old && old.block.type === block.type && old.block.raw === block.raw) return old;
    if (old && update(old, block)) return old;
    const entry = entryOf(block, container);
    if (old) old.node.replaceWith(entry.node);
    else parent.append(entry.node);
    return entry;
  });
  for (const left of entries.slice(blocks.length)) left.node.remove();
  return made;
}

/** Shows markdown that arrives in pieces. What is settled is not touched again. */
export class MarkdownView {
  #root;
  #stream = new MarkdownStream();
  #entries = [];

  /** @param {Element} root an empty element */
  constructor(root) {
    this.#root = root;
  }

  /** @param {string} text what came after the text so far */
  append(text) {
    const { settled, open } = this.#stream.append(text);
    this.#entries = patch(this.#root, this.#entries, [...settled, ...open]).slice(settled.length);
  }
}
