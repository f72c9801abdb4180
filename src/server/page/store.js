// What the browser keeps: conversations in IndexedDB, choices in localStorage, the API key for as long as the tab is open
// unless it is to stay.
import { merged } from "./conversation.js";

const DATABASE = "metal-marlin";
const TABLE = "conversations";
const KEY = "metal-marlin-api-key";
const CHOICES = "metal-marlin-choices";

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** Why the browser did not keep something, in words. */
export function storageFault(error) {
  if (error?.name === "QuotaExceededError") {
    return "The browser's storage is full: the last messages are not kept. Export conversations and delete some.";
  }
  return `The browser does not keep conversations here: ${error?.message || error?.name || "no reason given"}. They are lost with this page.`;
}

export class Store {
  #database;

  static async open() {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    const store = new Store();
    store.#database = await done(request);
    return store;
  }

  /** @returns {Promise<import("./conversation.js").Conversation[]>} */
  all() {
    return done(this.#database.transaction(TABLE).objectStore(TABLE).getAll());
  }

  get(id) {
    return done(this.#database.transaction(TABLE).objectStore(TABLE).get(id));
  }

  /** Keeps a conversation; messages that another window added to it stay. */
  put(conversation) {
    return this.#change((table, fail) => {
      const read = table.get(conversation.id);
      read.onsuccess = () => {
        try {
          table.put(read.result ? merged(read.result, conversation) : conversation);
        } catch (error) {
          fail(error);
        }
      };
    });
  }

  remove(id) {
    return this.#change((table) => table.delete(id));
  }

  #change(work) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(TABLE, "readwrite");
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
      transaction.onerror = () => reject(transaction.error);
      work(transaction.objectStore(TABLE), reject);
    });
  }
}

/** The model, parameters and theme that were used last. */
export function readChoices() {
  try {
    return JSON.parse(localStorage.getItem(CHOICES)) ?? {};
  } catch {
    return {}; // no storage, or not ours: the page begins as it does for a newcomer
  }
}

export function writeChoices(choices) {
  localStorage.setItem(CHOICES, JSON.stringify(choices));
}

export function readKey() {
  try {
    return { key: sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "", kept: localStorage.getItem(KEY) !== null };
  } catch {
    return { key: "", kept: false };
  }
}

/** @param {boolean} keep beyond this tab */
export function writeKey(key, keep) {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  if (key) (keep ? localStorage : sessionStorage).setItem(KEY, key);
}
