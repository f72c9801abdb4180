// Markdown's blocks as plain objects: CommonMark with tables, as models write it; HTML is text. Nothing here knows the DOM.
//
// Blocks have a type, `raw` (their lines: equal ones are equal blocks) and `start` (their first line's number):
// {type: "paragraph" | "heading", level, text}, {type: "code", language, text}, {type: "rule"}, {type: "quote", blocks},
// {type: "list", ordered, first, blocks: items}, {type: "item", blocks} and {type: "table", aligns, blocks: rows}, {type: "row", cells}.

const DEEPEST = 24; // quotes and lists in one another; beyond, they are text
const FENCE = /^([ \t]*)(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const UNDERLINE = /^ {0,3}(?:(=+)|-{2,})[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])([ \t]+|$)/;

const blank = (line) => line.trim() === "";

/** Columns of white space that a line begins with; a tab ends at a multiple of four. */
function indentOf(line) {
  let columns = 0;
  for (const c of line) {
    if (c === " ") columns++;
    else if (c === "\t") columns += 4 - (columns % 4);
    else break;
  }
  return columns;
}

/** The line without up to `columns` of its white space. */
function dedent(line, columns) {
  const indent = indentOf(line);
  return " ".repeat(Math.max(0, indent - columns)) + line.replace(/^[ \t]+/, "");
}

/** What a list item's first line says, or null. */
function itemAt(line) {
  const match = ITEM.exec(line);
  if (!match || RULE.test(line)) return null;
  const [all, space, marker, gap] = match;
  const indent = indentOf(space);
  const rest = line.slice(all.length);
  const content = indent + marker.length + (gap.length > 4 || !gap || !rest ? 1 : gap.length);
  const ordered = marker.length > 1;
  return { indent, content, rest, ordered, first: ordered ? parseInt(marker, 10) : 0, kind: marker[marker.length - 1] };
}

/** Whether a line ends the paragraph before it. */
function interrupts(line) {
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = itemAt(line);
  return item !== null && item.rest !== "" && (!item.ordered || item.first === 1);
}

function cellsOf(line) {
  const cells = [];
  let cell = "";
  const text = line.trim().replace(/^\|/, "");
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "\\" && text[i + 1] === "|") cell += text[++i];
    else if (text[i] === "|") {
      cells.push(cell.trim());
      cell = "";
    } else cell += text[i];
  }
  return cell.trim() ? [...cells, cell.trim()] : cells;
}

/** Whether a line is a table's head: the next one has its columns' marks. */
function startsTable(lines, at) {
  if (!lines[at].includes("|") || !lines[at + 1]?.includes("-")) return false;
  const marks = cellsOf(lines[at + 1]);
  return marks.length > 0 && marks.every((cell) => /^:?-+:?$/.test(cell)) && marks.length === cellsOf(lines[at]).length;
}

/** Reads blocks from an array of lines. */
class BlockParser {
  constructor(lines, depth) {
    this.lines = lines;
    this.depth = depth;
    this.at = 0;
  }

  parse() {
    const blocks = [];
    for (;;) {
      while (this.at < this.lines.length && blank(this.lines[this.at])) this.at++;
      if (this.at >= this.lines.length) return blocks;
      const start = this.at;
      const block = this.block(this.lines[start]);
      let end = this.at;
      while (end > start && block.type !== "code" && blank(this.lines[end - 1])) end--;
      blocks.push({ ...block, start, raw: this.lines.slice(start, end).join("\n") });
    }
  }

  block(line) {
    const fence = FENCE.exec(line);
    if (fence) return this.code(fence);
    if (HEADING.test(line)) return this.heading(line);
    if (RULE.test(line)) return this.take({ type: "rule" });
    if (this.depth < DEEPEST && QUOTE.test(line)) return this.quote();
    if (this.depth < DEEPEST && itemAt(line)) return this.list();
    if (startsTable(this.lines, this.at)) return this.table();
    return this.paragraph();
  }

  take(block) {
    this.at++;
    return block;
  }

  code([, space, marks, info]) {
    const indent = indentOf(space);
    const text = [];
    for (this.at++; this.at < this.lines.length; this.at++) {
      const close = this.lines[this.at].trim();
      if (close.length >= marks.length && close === marks[0].repeat(close.length)) {
        this.at++;
        break;
      }
      text.push(indent ? dedent(this.lines[this.at], indent) : this.lines[this.at]);
    }
    return { type: "code", language: info.trim().split(/\s/)[0], text: text.join("\n") };
  }

  heading(line) {
    const [all, marks] = HEADING.exec(line);
    let text = line.slice(all.length).trim();
    let end = text.length;
    while (text[end - 1] === "#") end--;
    if (end === 0 || /\s/.test(text[end - 1])) text = text.slice(0, end).trim();
    return this.take({ type: "heading", level: marks.length, text });
  }

  quote() {
    const inner = [];
    for (; this.at < this.lines.length && QUOTE.test(this.lines[this.at]); this.at++) {
      inner.push(this.lines[this.at].replace(QUOTE, ""));
    }
    return { type: "quote", blocks: new BlockParser(inner, this.depth + 1).parse() };
  }

  list() {
    const head = itemAt(this.lines[this.at]);
    const blocks = [];
    for (let item = head; item; item = this.sibling(head)) blocks.push(this.item(item));
    return { type: "list", ordered: head.ordered, first: head.first, blocks };
  }

  /** The next item of the same list, after blank lines too; null: the list has ended. */
  sibling(head) {
    let next = this.at;
    while (next < this.lines.length && blank(this.lines[next])) next++;
    const item = next < this.lines.length ? itemAt(this.lines[next]) : null;
    if (!item || item.ordered !== head.ordered || item.kind !== head.kind || item.indent >= head.indent + 2) return null;
    this.at = next;
    return item;
  }

  /** An item has what is indented by its text's column, or by two more than its mark, which models write under "1.". */
  item(item) {
    const start = this.at;
    const needed = Math.min(item.content, item.indent + 2);
    const inner = [item.rest];
    for (this.at++; this.at < this.lines.length; this.at++) {
      const line = this.lines[this.at];
      if (blank(line)) {
        let next = this.at;
        while (next < this.lines.length && blank(this.lines[next])) next++;
        if (next >= this.lines.length || indentOf(this.lines[next]) < needed) break;
        for (; this.at < next; this.at++) inner.push("");
        this.at--;
      } else if (indentOf(line) >= needed) inner.push(dedent(line, item.content));
      else if (blank(this.lines[this.at - 1]) || interrupts(line) || itemAt(line)) break;
      else inner.push(line.trimStart());
    }
    const raw = this.lines.slice(start, this.at).join("\n");
    return { type: "item", raw, start, blocks: new BlockParser(inner, this.depth + 1).parse() };
  }

  table() {
    const aligns = cellsOf(this.lines[this.at + 1]).map((cell) => {
      const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
      return left && right ? "center" : right ? "right" : left ? "left" : "";
    });
    const blocks = [];
    for (const start = this.at; this.at < this.lines.length; this.at++) {
      const line = this.lines[this.at];
      if (blank(line) || (this.at > start + 1 && interrupts(line))) break;
      if (this.at === start + 1) continue;
      const cells = cellsOf(line);
      blocks.push({ type: "row", raw: line, head: this.at === start, cells: aligns.map((_, i) => cells[i] ?? "") });
    }
    return { type: "table", aligns, blocks };
  }

  paragraph() {
    const text = [this.lines[this.at].trimStart()];
    for (this.at++; this.at < this.lines.length; this.at++) {
      const line = this.lines[this.at];
      const underline = UNDERLINE.exec(line);
      if (underline) {
        this.at++;
        return { type: "heading", level: underline[1] ? 1 : 2, text: text.join("\n").trim() };
      }
      if (blank(line) || interrupts(line) || startsTable(this.lines, this.at)) break;
      text.push(line.trimStart());
    }
    return { type: "paragraph", text: text.join("\n").trimEnd() };
  }
}

const linesOf = (text) => text.replace(/\r/g, "").split("\n");

/** The blocks of a whole text. */
export function parseMarkdown(text) {
  return new BlockParser(linesOf(text), 0).parse();
}

/**
 * The blocks of a text that arrives in pieces. A line decides over its own block and the one before it alone, so that
 * what stands before those two is settled, and never read again.
 */
export class MarkdownStream {
  #open = "";

  /**
   * @param {string} text what arrived
   * @returns {{settled: object[], open: object[]}} blocks that will not change any more, then the last two, which may
   */
  append(text) {
    const lines = linesOf(this.#open + text);
    const blocks = new BlockParser(lines, 0).parse();
    const count = Math.max(0, blocks.length - 2);
    this.#open = lines.slice(count ? blocks[count].start : 0).join("\n");
    return { settled: blocks.slice(0, count), open: blocks.slice(count) };
  }
}
