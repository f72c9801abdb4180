// Inline markdown as a tree of plain objects; nothing here knows the DOM.
//
// Nodes: {type: "text" | "code" | "math", text}, {type: "break"}, {type: "link", url, children} and
// {type: "em" | "strong" | "del", children}.

const ESCAPABLE = /[!-/:-@[-`{-~]/;
const SPACE = /\s/;
const WORD = /[\p{L}\p{N}]/u;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const ENTITY = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-z]{2,4}));/y;
const LINE_BREAK = /<br\s{0,4}\/?>/iy;
const ANGLE_LINK = /<((?:https?:|mailto:)[^\s<>]{1,2048})>/iy;
const BARE_LINK = /https?:\/\/[^\s<>"`[\]]{1,2048}/iy;
const DESTINATION = /\(\s{0,16}(?:<([^<>\n]{0,2048})>|((?:[^\s()\\]|\\.|\([^\s()]{0,512}\)){0,2048}))(?:\s{1,16}(?:"[^"]{0,512}"|'[^']{0,512}'))?\s{0,16}\)/y;
const MATH = [["\\(", "\\)"], ["\\[", "\\]"], ["$$", "$$"]];
const LONGEST_MATH = 4096;

/** The match of a sticky pattern at `at`, or null. */
function matchAt(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

/** Where a link can lead: http, https and mailto alone; else null. */
export function safeUrl(url) {
  const plain = url.replace(/[\u0000-\u0020\u007f-\u009f]/g, "");
  return /^(https?:\/\/|mailto:)/i.test(plain) ? plain : null;
}

/** A link's address without the punctuation of the sentence that it ends. */
function trimBareLink(url) {
  let end = url.length;
  let open = 0;
  for (const c of url) open += c === "(" ? 1 : c === ")" ? -1 : 0;
  for (; end > 0; end--) {
    const c = url[end - 1];
    if (c === ")" && open < 0) open++;
    else if (!".,;:!?'*_~".includes(c)) break;
  }
  return url.slice(0, end);
}

const unescape = (text) => text.replace(/\\([!-/:-@[-`{-~])/g, "$1");

/** Links do not nest: what a link's text holds of them becomes their text. */
function withoutLinks(nodes) {
  return nodes.flatMap((node) => {
    if (node.type === "link") return withoutLinks(node.children);
    return node.children ? [{ ...node, children: withoutLinks(node.children) }] : [node];
  });
}

const asText = (node) => (node.type === "run" ? { type: "text", text: node.char.repeat(node.count) } : node);

/** Joins texts that follow one another. */
function joined(nodes) {
  const out = [];
  for (const node of nodes.map(asText)) {
    const last = out[out.length - 1];
    if (node.type === "text" && last?.type === "text") last.text += node.text;
    else if (node.type !== "text" || node.text) out.push(node.type === "text" ? { ...node } : node);
  }
  return out;
}

/** Pairs runs of `*`, `_` and `~~`: the nearest opener that fits closes first. */
function nest(items) {
  const out = [];
  const openers = []; // places in `out`
  const searched = new Map(); // kind of run -> openers below this found no partner
  const kind = (run) => run.char + (run.opens ? run.count % 3 : "");
  const fits = (opener, run) => opener.char === run.char
    && !((opener.closes || run.opens) && (opener.count + run.count) % 3 === 0 && run.count % 3 !== 0);

  /** Closes with `run` as much as there is; what is left may open. */
  function close(run) {
    while (run.count > 0) {
      const bottom = Math.min(searched.get(kind(run)) ?? 0, openers.length);
      let at = openers.length - 1;
      while (at >= bottom && !fits(out[openers[at]], run)) at--;
      if (at < bottom) {
        searched.set(kind(run), openers.length);
        return;
      }
      const opener = out[openers[at]];
      const count = Math.min(2, opener.count, run.count);
      const children = joined(out.splice(openers[at] + 1));
      opener.count -= count;
      run.count -= count;
      openers.length = at + 1;
      if (opener.count === 0) {
        out.pop();
        openers.pop();
      }
      out.push({ type: run.char === "~" ? "del" : count === 2 ? "strong" : "em", children });
    }
  }

  for (const item of items) {
    if (item.type === "run" && item.closes) close(item);
    if (item.type === "run" && item.opens && item.count > 0) openers.push(out.length);
    if (item.type !== "run" || item.count > 0) out.push(item);
  }
  return joined(out);
}

/** One pass over a text; `nest` then pairs what emphasises. */
class InlineParser {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.items = [];
    this.brackets = []; // where each "[" stands in `items`
    this.noTicks = new Set(); // lengths of runs of backticks that nothing closes any more
    this.noMath = new Map(); // what closes math -> it is not before this place
  }

  parse() {
    let plain = 0;
    while (this.at < this.text.length) {
      const begin = this.at;
      const node = this.next();
      if (!node) {
        this.at = Math.max(this.at, begin + 1);
        continue;
      }
      const end = this.at;
      this.add(plain, begin);
      if (node.item !== undefined) { // a link takes the place of its text, which is there already
        const children = joined(withoutLinks(nest(this.items.splice(node.item).slice(1))));
        this.items.push({ type: "link", url: node.url, children });
      } else {
        if (node.type === "bracket") this.brackets.push(this.items.length);
        this.items.push(node.type === "bracket" ? { type: "text", text: node.text } : node);
      }
      plain = this.at = end;
    }
    this.add(plain, this.text.length);
    return nest(this.items);
  }

  add(begin, end) {
    if (end > begin) this.items.push({ type: "text", text: this.text.slice(begin, end) });
  }

  /** The node that begins here, `at` then behind it; null: plain text. */
  next() {
    const c = this.text[this.at];
    switch (c) {
      case "\\": return this.escape();
      case "`": return this.code();
      case "$": return this.math();
      case "*": case "_": case "~": return this.run(c);
      case "[": return this.take(1, { type: "bracket", text: "[" });
      case "!": return this.text[this.at + 1] === "[" ? this.take(2, { type: "bracket", text: "![" }) : null;
      case "]": return this.link();
      case "<": return this.angle();
      case "&": return this.entity();
      case "h": case "H": return this.bareLink();
      case "\n": return this.lineEnd();
      default: return null;
    }
  }

  take(length, node) {
    this.at += length;
    return node;
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "\n") return this.take(2, { type: "break" });
    if (next === "(" || next === "[") {
      const math = this.math();
      if (math) return math;
    }
    return next && ESCAPABLE.test(next) ? this.take(2, { type: "text", text: next }) : null;
  }

  /** TeX is shown as it is written, and kept from being read as markdown. */
  math() {
    const marks = MATH.find(([open]) => this.text.startsWith(open, this.at));
    if (!marks) return null;
    const text = this.text.slice(this.at, this.at + LONGEST_MATH);
    const searched = this.noMath.get(marks[1]) ?? 0;
    const end = text.indexOf(marks[1], Math.max(2, searched - this.at)) + 2;
    if (end < 2) this.noMath.set(marks[1], this.at + text.length - 1);
    return end < 2 ? null : this.take(end, { type: "math", text: text.slice(0, end) });
  }

  code() {
    const ticks = matchAt(/`+/y, this.text, this.at)[0];
    const begin = this.at + ticks.length;
    let end = this.noTicks.has(ticks.length) ? -1 : begin;
    while (end >= 0) {
      end = this.text.indexOf(ticks, end);
      if (end < 0) break;
      const run = matchAt(/`+/y, this.text, end)[0].length;
      if (run === ticks.length) break;
      end += run;
    }
    if (end < 0) {
      this.noTicks.add(ticks.length);
      return this.take(ticks.length, { type: "text", text: ticks });
    }
    let text = this.text.slice(begin, end).replace(/\n/g, " ");
    if (text.length > 2 && text.startsWith(" ") && text.endsWith(" ") && text.trim()) text = text.slice(1, -1);
    return this.take(end + ticks.length - this.at, { type: "code", text });
  }

  /** A run of `*`, `_` or `~`: between words `_` is a letter; a run beside a space opens or closes on its other side alone. */
  run(char) {
    let end = this.at;
    while (this.text[end] === char) end++;
    const count = end - this.at;
    const before = this.text[this.at - 1] ?? " ";
    const after = this.text[end] ?? " ";
    let opens = !SPACE.test(after);
    let closes = !SPACE.test(before);
    if (char === "_") {
      opens &&= !WORD.test(before);
      closes &&= !WORD.test(after);
    }
    if (char === "~" && count !== 2) opens = closes = false;
    return this.take(count, { type: "run", char, count, opens, closes });
  }

  /** At "]": a link, if "(address)" follows and a "[" went before. */
  link() {
    const item = this.brackets.pop();
    const match = item !== undefined && matchAt(DESTINATION, this.text, this.at + 1);
    if (!match) return null;
    return this.take(1 + match[0].length, { type: "link", item, url: unescape(match[1] ?? match[2]) });
  }

  angle() {
    const lineBreak = matchAt(LINE_BREAK, this.text, this.at);
    if (lineBreak) return this.take(lineBreak[0].length, { type: "break" });
    const match = matchAt(ANGLE_LINK, this.text, this.at);
    return match && this.take(match[0].length, { type: "link", url: match[1], children: [{ type: "text", text: match[1] }] });
  }

  bareLink() {
    if (WORD.test(this.text[this.at - 1] ?? " ")) return null;
    const match = matchAt(BARE_LINK, this.text, this.at);
    if (!match) return null;
    const url = trimBareLink(match[0]);
    return this.take(url.length, { type: "link", url, children: [{ type: "text", text: url }] });
  }

  entity() {
    const match = matchAt(ENTITY, this.text, this.at);
    if (!match) return null;
    const code = match[1] ? parseInt(match[1], 10) : match[2] ? parseInt(match[2], 16) : null;
    const text = code === null ? ENTITIES[match[3]] : code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : "\ufffd";
    return text === undefined ? null : this.take(match[0].length, { type: "text", text });
  }

  lineEnd() {
    return this.text.startsWith("  ", this.at - 2) ? this.take(1, { type: "break" }) : null;
  }
}

/** The nodes of a paragraph's text. */
export function parseInline(text) {
  return new InlineParser(text).parse();
}
