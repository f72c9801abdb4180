// The dialog of parameters and the API key.
import { SETTINGS, checkSetting } from "./conversation.js";
import { byId } from "./page.js";
import { element } from "./render.js";

const LABELS = {
  temperature: "Temperature", top_p: "Top p", top_k: "Top k", min_p: "Min p", max_tokens: "Max tokens", seed: "Seed",
};

const fieldOf = (name) => byId(`set-${name}`);

function makeFields() {
  for (const [name, { min, max, whole }] of Object.entries(SETTINGS)) {
    const input = element("input", { id: `set-${name}`, type: "number", min, max, step: whole ? "1" : "any", inputmode: whole ? "numeric" : "decimal",
      "aria-describedby": "numbers-hint" });
    byId("numbers").append(element("label", {}, LABELS[name], input));
  }
}

/** The fields' settings; throws what is wrong with one of them, and marks it. */
function readFields() {
  const settings = {};
  const system = byId("set-system").value;
  if (system.trim()) settings.system = system;
  for (const name of Object.keys(SETTINGS)) {
    const input = fieldOf(name);
    input.removeAttribute("aria-invalid");
    if (input.value === "" && !input.validity.badInput) continue;
    try {
      settings[name] = checkSetting(name, input.valueAsNumber);
    } catch (error) {
      input.setAttribute("aria-invalid", "true");
      input.focus();
      throw new TypeError(error.message.replace(name, LABELS[name]));
    }
  }
  return settings;
}

/**
 * Wires the dialog.
 * @param {(values: {settings: object, key: string, keep: boolean}) => void} save
 * @returns {(values: {settings: object, key: string, keep: boolean}, focus?: string) => void} opens it
 */
export function makeSettings(save) {
  const dialog = byId("settings");
  const fault = byId("settings-fault");
  makeFields();
  byId("settings-cancel").onclick = () => dialog.close();
  const accept = () => {
    try {
      const values = { settings: readFields(), key: byId("set-key").value.trim(), keep: byId("set-key-keep").checked };
      if (/[^\x21-\x7e]/.test(values.key)) throw new TypeError("API key: expected printable ASCII characters without spaces");
      dialog.close();
      save(values);
    } catch (error) {
      fault.textContent = error.message;
    }
  };
  byId("settings-save").onclick = accept;
  byId("key-form").onsubmit = (event) => event.preventDefault(); // browsers want fields for secrets in forms; nothing is sent
  dialog.onkeydown = (event) => {
    if (event.key === "Enter" && event.target.matches("input") && !event.isComposing) {
      event.preventDefault();
      accept();
    }
  };
  return ({ settings, key, keep }, focus = "set-system") => {
    fault.textContent = "";
    byId("set-system").value = settings.system ?? "";
    for (const name of Object.keys(SETTINGS)) {
      fieldOf(name).value = settings[name] ?? "";
      fieldOf(name).removeAttribute("aria-invalid");
    }
    byId("set-key").value = key;
    byId("set-key-keep").checked = keep;
    dialog.showModal();
    byId(focus).focus();
  };
}
