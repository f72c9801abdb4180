// The server's API, and its errors in words.
import { eventsOf } from "./sse.js";

export class ApiError extends Error {
  /** @param {{status?: number, retryAfter?: number | null}} [details] retryAfter: seconds */
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const WORDS = {
  401: "The server wants an API key: enter it in the settings",
  403: "The server does not take this API key: see the settings",
  404: "The server does not know this",
  413: "The request is larger than the server takes",
  429: "The server is busy",
  503: "The server is not ready",
};

/** Seconds of a Retry-After field, which has seconds or a date; null: it has neither. */
export function retrySeconds(field, now = Date.now()) {
  if (field === null) return null;
  const seconds = /^\d+$/.test(field.trim()) ? Number(field) : (Date.parse(field) - now) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}

/** @param {Response} response one that is not ok */
async function errorOf(response) {
  let said = "";
  try {
    const body = await response.text();
    try {
      const parsed = JSON.parse(body);
      said = parsed?.error?.message ?? parsed?.message ?? "";
    } catch {
      said = body.trim().startsWith("<") ? "" : body.trim();
    }
  } catch {
    said = ""; // the status says enough
  }
  const words = WORDS[response.status] ?? (response.status >= 500 ? "The server failed" : "The server refused");
  return new ApiError(`${words} (${response.status})${said ? `: ${String(said).slice(0, 500)}` : "."}`,
    { status: response.status, retryAfter: retrySeconds(response.headers.get("Retry-After")) });
}

function readChunk(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError(`The server sent what is no JSON: ${data.slice(0, 100)}`);
  }
  if (chunk?.error) throw new ApiError(`The server failed: ${chunk.error.message ?? JSON.stringify(chunk.error)}`);
  const choice = chunk?.choices?.[0];
  const content = choice?.delta?.content ?? "";
  const reasoning = choice?.delta?.reasoning_content ?? "";
  const usage = chunk?.usage ?? null;
  const counts = usage === null ? [] : [usage.prompt_tokens, usage.completion_tokens];
  if (typeof content !== "string" || typeof reasoning !== "string" || !counts.every((count) => Number.isInteger(count) && count >= 0)) {
    throw new ApiError(`The server sent what is no piece of an answer: ${data.slice(0, 100)}`);
  }
  return { content, reasoning, finish: choice?.finish_reason ?? null, usage };
}

export class Api {
  key = "";

  /** Paths are relative, for servers behind a prefix. */
  async #fetch(path, body, signal) {
    const headers = {};
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    if (body) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server cannot be reached. Is it running?");
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  /** @returns {Promise<{id: string, context: number | null}[]>} */
  async models() {
    const list = await (await this.#fetch("v1/models")).json();
    if (!Array.isArray(list?.data) || !list.data.every((model) => typeof model?.id === "string")) {
      throw new ApiError("The server's list of models is not one.");
    }
    return list.data.map(({ id, max_model_len: length }) => ({ id, context: Number.isInteger(length) && length > 0 ? length : null }));
  }

  /** How many tokens a model's context has, as /tokenize says; null: it does not. */
  async contextOf(model) {
    const { max_model_len: length } = await (await this.#fetch("tokenize", { model, prompt: "" })).json();
    return Number.isInteger(length) && length > 0 ? length : null;
  }

  /** The pieces of an answer: {content, reasoning, finish, usage}. */
  async* chat(request, signal) {
    const response = await this.#fetch("v1/chat/completions", request, signal);
    let finished = false;
    try {
      for await (const data of eventsOf(response.body)) {
        if (data === "[DONE]") return;
        const chunk = readChunk(data);
        finished ||= chunk.finish !== null;
        yield chunk;
      }
    } catch (error) {
      if (error.name === "AbortError" || error instanceof ApiError) throw error;
      throw new ApiError(error instanceof RangeError ? `The server's answer was given up: ${error.message}.`
        : "The connection to the server broke off in the middle of the answer.");
    }
    if (!finished) throw new ApiError("The server ended the connection in the middle of the answer.");
  }
}
