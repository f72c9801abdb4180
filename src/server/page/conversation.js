// Conversations: trees of messages of which one path is shown. Plain objects, as they are kept and exported.

/**
 * @typedef {object} Message
 * @property {string} id
 * @property {string | null} parent the message it follows, which stands before it in the list; null: it begins a conversation
 * @property {"user" | "assistant"} role
 * @property {string} content
 * @property {string} [reasoning] what the model thought before it answered
 * @property {string} [model]
 * @property {number} [thinkingSeconds] @property {number} [seconds] from its first token to its last
 * @property {number} [tokens] how many it has @property {number} [used] of the context, with what stood before it
 * @property {"complete" | "length" | "stopped" | "broken"} [end] how it ended; an answer without it was cut off
 * @property {string} [error] what went wrong, in words
 *
 * @typedef {object} Conversation
 * @property {string} id @property {string} title @property {number} created @property {number} updated milliseconds
 * @property {Record<string, string | number>} settings the model, system and what else SETTINGS has
 * @property {Message[]} messages
 * @property {Record<string, string>} selected which of the messages that follow one ("" for null) is shown; else the last
 */

const FORMAT = "metal-marlin-conversations";
const VERSION = 1;
const LONGEST_TITLE = 60;
const ROLES = ["user", "assistant"];
const ENDS = ["complete", "length", "stopped", "broken"];

/** Numbers that a request can have: their name in it, bounds, and whether they are whole. */
export const SETTINGS = {
  temperature: { min: 0, max: 2 },
  top_p: { min: 0.000001, max: 1 },
  top_k: { min: 0, max: 1000000, whole: true },
  min_p: { min: 0, max: 1 },
  max_tokens: { min: 1, max: 10000000, whole: true },
  seed: { min: 0, max: Number.MAX_SAFE_INTEGER, whole: true },
};

/** A name that no other message or conversation has. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @returns {Conversation} */
export function newConversation(settings = {}) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, settings: { ...settings }, messages: [], selected: {} };
}

/** The messages that follow `parent` (an id or null). */
export function childrenOf(conversation, parent) {
  return conversation.messages.filter((message) => message.parent === parent);
}

/** The messages that are shown, first to last. */
export function pathOf(conversation) {
  const byParent = new Map();
  for (const message of conversation.messages) {
    if (!byParent.has(message.parent)) byParent.set(message.parent, []);
    byParent.get(message.parent).push(message);
  }
  const path = [];
  for (let at = null, next; (next = byParent.get(at)); at = path[path.length - 1].id) {
    const chosen = conversation.selected[at ?? ""];
    path.push(next.find((message) => message.id === chosen) ?? next[next.length - 1]);
  }
  return path;
}

/** Adds a message behind `parent`, and shows it. */
export function addMessage(conversation, parent, fields) {
  const message = { id: newId(), parent, ...fields };
  conversation.messages.push(message);
  select(conversation, message);
  if (!conversation.title && message.role === "user") conversation.title = titleOf(message.content);
  conversation.updated = Date.now();
  return message;
}

export function select(conversation, message) {
  conversation.selected[message.parent ?? ""] = message.id;
}

function titleOf(text) {
  const line = text.trim().split("\n")[0].trim();
  const characters = [...line.slice(0, 4 * LONGEST_TITLE)];
  return characters.length > LONGEST_TITLE ? `${characters.slice(0, LONGEST_TITLE - 1).join("")}…` : line;
}

/** What is asked of the server for an answer behind `parent`. */
export function requestOf(conversation, parent) {
  const byId = new Map(conversation.messages.map((message) => [message.id, message]));
  const messages = [];
  for (let at = byId.get(parent); at; at = byId.get(at.parent)) {
    messages.unshift({ role: at.role, content: at.content });
  }
  const { model, system, ...numbers } = conversation.settings;
  if (system) messages.unshift({ role: "system", content: system });
  return { model, messages, ...numbers, stream: true, stream_options: { include_usage: true } };
}

/** Both copies' messages, for a conversation that two windows wrote to; the rest is `mine`. */
export function merged(stored, mine) {
  const known = new Set(mine.messages.map((message) => message.id));
  const others = stored.messages.filter((message) => !known.has(message.id));
  return { ...mine, messages: inOrder([...mine.messages, ...others]), selected: { ...stored.selected, ...mine.selected } };
}

/** Parents before what follows them; what else stays in place. */
function inOrder(messages) {
  const placed = new Set([null]);
  const out = [];
  let waiting = messages;
  while (waiting.length) {
    const next = waiting.filter((message) => {
      if (!placed.has(message.parent)) return true;
      placed.add(message.id);
      out.push(message);
      return false;
    });
    if (next.length === waiting.length) break;
    waiting = next;
  }
  return out;
}

/** A file's text with these conversations. */
export function writeExport(conversations) {
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1);
}

function expect(condition, where, what) {
  if (!condition) throw new TypeError(`${where}: expected ${what}`);
}

const isText = (value) => typeof value === "string";
const isTime = (value) => Number.isFinite(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** A setting's value, or what is wrong with it as a TypeError. */
export function checkSetting(name, value) {
  const { min, max, whole } = SETTINGS[name];
  expect(Number.isFinite(value) && value >= min && value <= max && (!whole || Number.isInteger(value)), name,
    `a ${whole ? "whole " : ""}number from ${min} to ${max}`);
  return value;
}

function readSettings(value, where) {
  expect(isObject(value), where, "an object");
  const settings = {};
  for (const name of ["model", "system"]) {
    if (value[name] === undefined) continue;
    expect(isText(value[name]), `${where}.${name}`, "a text");
    settings[name] = value[name];
  }
  for (const name of Object.keys(SETTINGS)) {
    if (value[name] !== undefined) settings[name] = checkSetting(name, value[name]);
  }
  return settings;
}

function readMessage(value, where, known) {
  expect(isObject(value), where, "an object");
  expect(isText(value.id) && value.id !== "" && !known.has(value.id), `${where}.id`, "a text that no other message has");
  expect(value.parent === null || known.has(value.parent), `${where}.parent`, "null or the id of a message before it");
  expect(ROLES.includes(value.role), `${where}.role`, ROLES.join(" or "));
  expect(isText(value.content), `${where}.content`, "a text");
  const message = { id: value.id, parent: value.parent, role: value.role, content: value.content };
  for (const name of ["reasoning", "model", "error"]) {
    if (value[name] === undefined) continue;
    expect(isText(value[name]), `${where}.${name}`, "a text");
    message[name] = value[name];
  }
  for (const name of ["thinkingSeconds", "seconds", "tokens", "used"]) {
    if (value[name] === undefined) continue;
    expect(isTime(value[name]), `${where}.${name}`, "a number that is not negative");
    message[name] = value[name];
  }
  if (value.end !== undefined) {
    expect(ENDS.includes(value.end), `${where}.end`, ENDS.join(", "));
    message.end = value.end;
  }
  return message;
}

function readConversation(value, where) {
  expect(isObject(value), where, "an object");
  expect(isText(value.id) && value.id !== "", `${where}.id`, "a text");
  expect(isText(value.title), `${where}.title`, "a text");
  expect(isTime(value.created) && isTime(value.updated), `${where}.created and updated`, "milliseconds");
  expect(Array.isArray(value.messages), `${where}.messages`, "a list");
  const known = new Map();
  for (const [i, entry] of value.messages.entries()) {
    const message = readMessage(entry, `${where}.messages[${i}]`, known);
    known.set(message.id, message);
  }
  expect(isObject(value.selected), `${where}.selected`, "an object");
  const selected = {};
  for (const [parent, child] of Object.entries(value.selected)) {
    expect(known.get(child)?.parent === (parent || null), `${where}.selected["${parent}"]`, "a message that follows it");
    selected[parent] = child;
  }
  return {
    id: value.id, title: value.title, created: value.created, updated: value.updated,
    settings: readSettings(value.settings, `${where}.settings`), messages: [...known.values()], selected,
  };
}

/**
 * The conversations of an exported file.
 * @param {string} text
 * @returns {Conversation[]}
 */
export function readExport(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new TypeError(`this is no JSON: ${error.message}`);
  }
  expect(isObject(file) && file.format === FORMAT, "format", `"${FORMAT}"`);
  expect(file.version === VERSION, "version", String(VERSION));
  expect(Array.isArray(file.conversations), "conversations", "a list");
  return file.conversations.map((value, i) => readConversation(value, `conversations[${i}]`));
}
