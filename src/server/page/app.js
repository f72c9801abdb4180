// The page as a whole: which conversations there are, which models, what is kept.
import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { merged, newConversation, readExport, writeExport } from "./conversation.js";
import { byId, confirmDelete, download, focusDraft, notice, status } from "./page.js";
import { makeSettings } from "./settings.js";
import { makeSidebar } from "./sidebar.js";
import { Store, readChoices, readKey, storageFault, writeChoices, writeKey } from "./store.js";

const THEME = "metal-marlin-theme";
const LARGEST_IMPORT = 256 << 20;

const api = new Api();
const conversations = new Map();
const windows = new BroadcastChannel("metal-marlin"); // other windows of this page
let store = null;
let unkept = false; // the last time something was kept failed, and that was said
let models = [];
let choices = readChoices();

const modelField = byId("model");
const chosenModel = () => modelField.value || null;

const chat = new Chat({
  api,
  keep,
  failed,
  model: chosenModel,
  context: () => models.find((model) => model.id === chosenModel())?.context ?? null,
});

const showSidebar = makeSidebar({
  open,
  remove,
  save: (id) => download(`${fileName(conversations.get(id).title)}.json`, writeExport([conversations.get(id)])),
  rename: (id, title) => {
    conversations.get(id).title = title;
    keep(conversations.get(id), true);
    if (id === chat.conversation.id) chat.show();
  },
});
const listConversations = () => showSidebar([...conversations.values()].filter((each) => each.messages.length), chat.conversation.id);

const openSettings = makeSettings(({ settings, key, keep: stays }) => {
  const { model } = chat.conversation.settings;
  chat.conversation.settings = { ...(model ? { model } : {}), ...settings };
  choose({ settings });
  if (chat.conversation.messages.length) keep(chat.conversation, true);
  const changed = key !== api.key;
  api.key = key;
  attempt(() => writeKey(key, stays));
  if (changed || !models.length) loadModels();
});

const fileName = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "conversation";

/** Does what the browser's storage may refuse, and says so when it does. */
function attempt(work) {
  try {
    work();
  } catch (error) {
    notice(storageFault(error));
  }
}

function choose(changes) {
  choices = { ...choices, ...changes };
  attempt(() => writeChoices(choices));
}

/** Keeps a conversation in the browser; when it is final, other windows are told. */
async function keep(conversation, final) {
  if (final) listConversations();
  if (!store || !conversations.has(conversation.id)) return;
  try {
    await store.put(conversation);
    unkept = false;
    if (final) windows.postMessage(conversation.id);
  } catch (error) {
    if (!unkept) notice(storageFault(error), "Export all", exportAll);
    unkept = true;
  }
}

function failed(fault) {
  if (fault.status === 401 || fault.status === 403) notice(fault.message, "Enter a key", () => editSettings("set-key"));
  else if (!models.length) notice(fault.message, "Ask again", loadModels);
}

function editSettings(focus) {
  const { kept } = readKey();
  openSettings({ settings: chat.conversation.settings, key: api.key, keep: kept }, focus);
}

function open(id) {
  const conversation = conversations.get(id);
  history.replaceState(null, "", `#${id}`);
  chat.open(conversation);
  if (models.some((model) => model.id === conversation.settings.model)) modelField.value = conversation.settings.model;
  chat.showContext();
  listConversations();
  focusDraft();
}

/** An empty conversation that is there already serves as the new one. */
function newChat() {
  const empty = [...conversations.values()].find((each) => each.messages.length === 0);
  const conversation = empty ?? newConversation(choices.settings);
  conversations.set(conversation.id, conversation);
  open(conversation.id);
}

async function remove(id) {
  if (!await confirmDelete(`Delete “${conversations.get(id).title}” with all its versions?`)) return;
  chat.runs.get(id)?.stop();
  forget(id);
  byId("new-chat").focus();
  try {
    await store?.remove(id);
    windows.postMessage(id);
  } catch (error) {
    notice(storageFault(error));
  }
}

function forget(id) {
  conversations.delete(id);
  if (chat.conversation?.id === id) newChat();
  else listConversations();
}

/** Takes over what another window did with a conversation. */
windows.onmessage = async ({ data: id }) => {
  const stored = await store?.get(id);
  if (chat.runs.has(id)) return; // the next time it is kept brings both together
  if (!stored) {
    if (conversations.has(id)) forget(id);
    return;
  }
  const mine = conversations.get(id);
  conversations.set(id, mine ? { ...merged(mine, stored), selected: mine.selected } : stored);
  if (chat.conversation.id === id) chat.open(conversations.get(id));
  listConversations();
};

const exportAll = () => download("metal-marlin-conversations.json", writeExport([...conversations.values()].filter((each) => each.messages.length)));

async function importFile(file) {
  try {
    if (file.size > LARGEST_IMPORT) throw new TypeError(`it is larger than ${LARGEST_IMPORT >> 20} MiB`);
    const imported = readExport(await file.text());
    for (const conversation of imported) {
      const mine = conversations.get(conversation.id);
      conversations.set(conversation.id, mine ? merged(mine, conversation) : conversation);
      await keep(conversations.get(conversation.id), true);
    }
    status(`Imported: ${imported.length} conversation${imported.length === 1 ? "" : "s"}.`);
    if (imported.length) open(imported[0].id);
  } catch (error) {
    notice(`${file.name} was not imported: ${error.message}.`);
  }
}

async function loadModels() {
  try {
    models = await api.models();
    const wanted = chat.conversation.settings.model ?? choices.model;
    modelField.replaceChildren(...models.map(({ id }) => new Option(id, id)));
    if (models.some((model) => model.id === wanted)) modelField.value = wanted;
    if (!models.length) notice("The server has no model.", "Ask again", loadModels);
    await learnContext();
  } catch (error) {
    failed(error);
  }
}

/** The chosen model's context, where the list of models does not tell it. */
async function learnContext() {
  const model = models.find(({ id }) => id === chosenModel());
  if (model && model.context === null && !model.asked) {
    model.asked = true;
    try {
      model.context = await api.contextOf(model.id);
    } catch {
      model.context = null; // a server without /tokenize: tokens are shown without a limit
    }
  }
  chat.showContext();
}

function wireTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = byId("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => button.setAttribute("aria-pressed", String(dark()));
  button.onclick = () => {
    const next = dark() ? "light" : "dark";
    const chosen = (next === "dark") !== system.matches; // else the system's, from now on
    if (chosen) root.dataset.theme = next;
    else delete root.dataset.theme;
    attempt(() => (chosen ? localStorage.setItem(THEME, next) : localStorage.removeItem(THEME)));
    show();
  };
  system.onchange = show;
  show();
}

function wire() {
  wireTheme();
  byId("new-chat").onclick = () => {
    newChat();
    byId("close-sidebar").click(); // on a narrow page, where the list covers the conversation
    focusDraft();
  };
  byId("export-all").onclick = exportAll;
  byId("import").onclick = () => byId("import-file").click();
  byId("import-file").onchange = ({ target }) => {
    if (target.files.length) importFile(target.files[0]);
    target.value = "";
  };
  byId("open-settings").onclick = () => editSettings();
  byId("notice-close").onclick = () => {
    notice("");
    focusDraft();
  };
  modelField.onchange = () => {
    choose({ model: modelField.value });
    learnContext();
  };
  window.onhashchange = () => {
    const id = location.hash.slice(1);
    if (conversations.has(id) && id !== chat.conversation.id) open(id);
  };
  document.onkeydown = (event) => {
    if (document.querySelector("dialog[open]")) return;
    if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      newChat();
    } else if (event.key === "Escape") chat.stop();
  };
}

async function start() {
  wire();
  api.key = readKey().key;
  try {
    store = await Store.open();
    for (const conversation of await store.all()) conversations.set(conversation.id, conversation);
  } catch (error) {
    notice(storageFault(error));
  }
  const wanted = location.hash.slice(1);
  if (conversations.has(wanted)) open(wanted);
  else newChat();
  await loadModels();
}

start();
