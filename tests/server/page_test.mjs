// The chat page's parts that need no browser: markdown, the stream of events, conversations, Retry-After.
import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { test } from "node:test";

globalThis.crypto ??= webcrypto; // Node.js 18 has it by no name of its own

const { parseInline, safeUrl } = await import("../../src/server/page/inline.js");
const { MarkdownStream, parseMarkdown } = await import("../../src/server/page/markdown.js");
const { EventParser, eventsOf } = await import("../../src/server/page/sse.js");
const { retrySeconds } = await import("../../src/server/page/api.js");
const conversation = await import("../../src/server/page/conversation.js");

/** An HTML-like line for what a text becomes. */
const inline = (nodes) => nodes.map((node) => {
  if (node.type === "text") return node.text;
  if (node.type === "break") return "<br>";
  if (node.type === "link") return `<a ${node.url}>${inline(node.children)}</a>`;
  return `<${node.type}>${node.children ? inline(node.children) : node.text}</${node.type}>`;
}).join("");

const blocks = (list) => list.map((block) => {
  switch (block.type) {
    case "paragraph": return `<p>${inline(parseInline(block.text))}</p>`;
    case "heading": return `<h${block.level}>${inline(parseInline(block.text))}</h${block.level}>`;
    case "rule": return "<hr>";
    case "code": return `<pre ${block.language}>${block.text}</pre>`;
    case "quote": return `<quote>${blocks(block.blocks)}</quote>`;
    case "list": return block.ordered ? `<ol ${block.first}>${blocks(block.blocks)}</ol>` : `<ul>${blocks(block.blocks)}</ul>`;
    case "item": return `<li>${blocks(block.blocks)}</li>`;
    case "table": return `<table ${block.aligns}>${blocks(block.blocks)}</table>`;
    case "row": return `<tr>${block.cells.map((cell) => `<td>${inline(parseInline(cell))}</td>`).join("")}</tr>`;
    default: throw new TypeError(block.type);
  }
}).join("");
const html = (text) => blocks(parseMarkdown(text));

test("inline markdown", () => {
  for (const [text, wanted] of [
    ["*a* **b** ***c*** ~~d~~ ~5", "<em>a</em> <strong>b</strong> <em><strong>c</strong></em> <del>d</del> ~5"],
    ["**a *b* c** d*e*f snake_case_name _x_ 2 * 3 * 4", "<strong>a <em>b</em> c</strong> d<em>e</em>f snake_case_name <em>x</em> 2 * 3 * 4"],
    ["**a* __b", "*<em>a</em> __b"],
    ["**“重点”**的", "<strong>“重点”</strong>的"],
    ["`a*b*` ``c`d`` ` e ` `f", "<code>a*b*</code> <code>c`d</code> <code>e</code> `f"],
    ["[a *b*](https://x.y/(z) \"t\") [c](<https://x y>) [d](", "<a https://x.y/(z)>a <em>b</em></a> <a https://x y>c</a> [d]("],
    ["[a] [b](c) ![d](https://e/f.png)", "[a] <a c>b</a> <a https://e/f.png>d</a>"],
    ["[[x](https://y)](https://z)", "<a https://z>x</a>"],
    ["see https://x.y/a_(b)_c). or <https://x.y> xhttps://no", "see <a https://x.y/a_(b)_c>https://x.y/a_(b)_c</a>). or <a https://x.y>https://x.y</a> xhttps://no"],
    ["\\*a\\* \\q &lt;b&gt; &#65;&#x42; &nope; &#0;", "*a* \\q <b> AB &nope; \ufffd"],
    ["a<br>b<br />c  \nd\\\ne\nf", "a<br>b<br>c  <br>d<br>e\nf"],
    ["\\(a_1 * b_2 * c\\) and $$x_1 _y_$$, $5 and $6", "<math>\\(a_1 * b_2 * c\\)</math> and <math>$$x_1 _y_$$</math>, $5 and $6"],
    ["<script>alert(1)</script> <img src=x onerror=alert(1)>", "<script>alert(1)</script> <img src=x onerror=alert(1)>"],
  ]) assert.equal(inline(parseInline(text)), wanted, text);
});

test("only http, https and mailto are links", () => {
  for (const url of ["https://a.b", "HTTP://a.b/c?d#e", "mailto:a@b.c"]) assert.equal(safeUrl(url), url);
  for (const url of ["javascript:alert(1)", "java\nscript:alert(1)", " javascript:alert(1)", "JAVASCRIPT:alert(1)", "data:text/html,x", "vbscript:x",
    "file:///etc/passwd", "//a.b", "/v1/models", "https:a", "blob:https://a", "\u0001javascript:x", "#", ""]) assert.equal(safeUrl(url), null, url);
});

test("blocks of markdown", () => {
  for (const [text, wanted] of [
    ["# A #\n## B\n####### c\n#d", "<h1>A</h1><h2>B</h2><p>####### c\n#d</p>"],
    ["A\n===\nb\n---\n\n---\n* * *", "<h1>A</h1><h2>b</h2><hr><hr>"],
    ["- a\n  - b\n    1. c\n\n    d\n- e", "<ul><li><p>a</p><ul><li><p>b</p><ol 1><li><p>c</p></li></ol><p>d</p></li></ul></li><li><p>e</p></li></ul>"],
    ["1. a\n   ```js\n   x\n     y\n   ```\n2. b\n\ntext", "<ol 1><li><p>a</p><pre js>x\n  y</pre></li><li><p>b</p></li></ol><p>text</p>"],
    ["1. a\n  - b\n  - c\n2. d", "<ol 1><li><p>a</p><ul><li><p>b</p></li><li><p>c</p></li></ul></li><li><p>d</p></li></ol>"],
    ["1. a\n```\nx\n```\n2. b", "<ol 1><li><p>a</p></li></ol><pre >x</pre><ol 2><li><p>b</p></li></ol>"],
    ["- a\nlazy\n* b", "<ul><li><p>a\nlazy</p></li></ul><ul><li><p>b</p></li></ul>"],
    ["In 1999 it was\n1999. no list", "<p>In 1999 it was\n1999. no list</p>"],
    ["```c++ title\n<b>\n~~~\n``\n````\nafter", "<pre c++><b>\n~~~\n``</pre><p>after</p>"],
    ["```\nopen\n", "<pre >open\n</pre>"],
    ["> a\n> > b\n> - c\n\nd", "<quote><p>a</p><quote><p>b</p></quote><ul><li><p>c</p></li></ul></quote><p>d</p>"],
    ["T:\n| a | b |\n|:--|:-:|\n| `1` | x\\|y | z |\n| 2\n\nend", "<p>T:</p><table left,center><tr><td>a</td><td>b</td></tr><tr><td><code>1</code></td><td>x|y</td></tr><tr><td>2</td><td></td></tr></table><p>end</p>"],
    ["a | b\n--|--:\n1 | 2", "<table ,right><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></tr></table>"],
    ["a | b\n---\nc", "<h2>a | b</h2><p>c</p>"],
    ["a\r\n\r\nb\r\n", "<p>a</p><p>b</p>"],
    ["-\n-\n", "<ul><li></li><li></li></ul>"],
    ["", ""],
  ]) assert.equal(html(text), wanted, text);
});

/** A generator of numbers that is the same each time. */
function random(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const PIECES = ["# h", "- ", "  - ", "1. ", "2) ", "> ", "```", "```py", "~~~", "---", "===", "| a | b |", "|---|:-:|", "| 1 |", "*", "**x**", "_y_", "`", "text", " ",
  "    ", "\t", "\n", "\n", "\n", "\n\n", "[l](https://x)", "\\", "<b>", "é", "日本", "🐟", "$$", "-", "#", "|", ">"];

test("a text in pieces becomes what the whole text becomes", () => {
  const next = random(7);
  for (let round = 0; round < 800; round++) {
    const text = Array.from({ length: 1 + next(60) }, () => PIECES[next(PIECES.length)]).join("");
    const stream = new MarkdownStream();
    const settled = [];
    let open = [];
    for (let at = 0; at < text.length;) {
      const size = 1 + next(6);
      const got = stream.append(text.slice(at, at + size));
      settled.push(...got.settled);
      open = got.open;
      at += size;
    }
    assert.equal(blocks([...settled, ...open]), html(text), JSON.stringify(text));
  }
});

test("hostile texts take time in proportion to their length", () => {
  const inlineOf = (list) => list.forEach((block) => {
    if (block.text !== undefined) parseInline(block.text);
    if (block.blocks) inlineOf(block.blocks);
  });
  for (const piece of ["[", "*a ", "_a*b ", "`", "[a](", "<a", "![", "\\(", "&", "> ", "- ", "1. ", "| a", "#", "``` ", "-", " ", "~~", "https://a.b/", "*a**", "[[a](b)]",
    "](b)", "$$", "> - "]) {
    const text = piece.repeat(20000 / piece.length);
    for (const hostile of [text, `\`\`\`${text}\``, text.replaceAll(" ", "\n"), `# ${text} x`, `|${text}\n${text}`, `- a${"\n".repeat(20000)}  ${text}`]) {
      const begin = performance.now();
      inlineOf(parseMarkdown(hostile));
      assert.ok(performance.now() - begin < 2000, `${JSON.stringify(hostile.slice(0, 20))}: ${performance.now() - begin} ms`);
    }
  }
});

test("a long answer costs no more at its end than at its beginning", () => {
  const stream = new MarkdownStream();
  const work = () => {
    const begin = performance.now();
    for (let i = 0; i < 5000; i++) stream.append(i % 50 === 0 ? "\n\n" : `word${i} `);
    return performance.now() - begin;
  };
  work();
  const early = work();
  for (let i = 0; i < 6; i++) work();
  assert.ok(work() < 4 * early + 50);
});

test("events in any pieces", async () => {
  const text = ': hello\r\n\r\ndata: {"a":"é🐟"}\r\n\r\ndata:x\ndata: y\n\nevent: z\nid: 1\ndata: last\r\rdata: not completed';
  const wanted = ['{"a":"é🐟"}', "x\ny", "last"];
  const bytes = new TextEncoder().encode(text);
  for (let size = 1; size <= bytes.length; size++) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
        controller.close();
      },
    });
    const events = [];
    for await (const data of eventsOf(body)) events.push(data);
    assert.deepEqual(events, wanted, `pieces of ${size}`);
  }
  assert.throws(() => new EventParser().push("x".repeat((16 << 20) + 1)), /16 MiB/);
});

test("Retry-After has seconds or a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  assert.equal(retrySeconds("7", now), 7);
  assert.equal(retrySeconds("Thu, 01 Jan 2026 00:00:05 GMT", now), 5);
  assert.equal(retrySeconds("Wed, 31 Dec 2025 00:00:00 GMT", now), 0);
  assert.equal(retrySeconds("soon", now), null);
  assert.equal(retrySeconds(null, now), null);
});

test("conversations branch", () => {
  const chat = conversation.newConversation({ temperature: 0.5, system: "Be brief.", model: "m" });
  const ask = conversation.addMessage(chat, null, { role: "user", content: "first\nquestion" });
  const answer = conversation.addMessage(chat, ask.id, { role: "assistant", content: "A" });
  const again = conversation.addMessage(chat, ask.id, { role: "assistant", content: "B" });
  const contents = () => conversation.pathOf(chat).map((message) => message.content);
  assert.equal(chat.title, "first");
  assert.deepEqual(contents(), ["first\nquestion", "B"]);
  conversation.select(chat, answer);
  const more = conversation.addMessage(chat, answer.id, { role: "user", content: "more" });
  assert.deepEqual(contents(), ["first\nquestion", "A", "more"]);
  assert.deepEqual(conversation.childrenOf(chat, ask.id), [answer, again]);
  assert.deepEqual(conversation.requestOf(chat, more.id), {
    model: "m", temperature: 0.5, stream: true, stream_options: { include_usage: true },
    messages: [{ role: "system", content: "Be brief." }, { role: "user", content: "first\nquestion" }, { role: "assistant", content: "A" }, { role: "user", content: "more" }],
  });
});

test("two windows' copies come together", () => {
  const chat = conversation.newConversation();
  const root = conversation.addMessage(chat, null, { role: "user", content: "q" });
  const other = structuredClone(chat);
  conversation.addMessage(chat, root.id, { role: "assistant", content: "mine" });
  const theirs = conversation.addMessage(other, root.id, { role: "assistant", content: "theirs" });
  conversation.addMessage(other, theirs.id, { role: "user", content: "behind theirs" });
  const both = conversation.merged(other, chat);
  assert.deepEqual(both.messages.map((message) => message.content), ["q", "mine", "theirs", "behind theirs"]);
  assert.deepEqual(conversation.readExport(conversation.writeExport([both])), [both]);
});

test("exported files are checked", () => {
  const chat = conversation.newConversation({ top_k: 40 });
  const ask = conversation.addMessage(chat, null, { role: "user", content: "q" });
  conversation.addMessage(chat, ask.id, { role: "assistant", content: "a", reasoning: "r", tokens: 3, seconds: 0.5, end: "complete" });
  const good = JSON.parse(conversation.writeExport([chat]));
  assert.deepEqual(conversation.readExport(JSON.stringify(good)), [chat]);
  for (const [path, value, says] of [
    ["format", "other", "format"], ["version", 2, "version"], ["conversations", {}, "a list"], ["conversations.0", null, "an object"],
    ["conversations.0.id", "", "id"], ["conversations.0.title", 5, "title"], ["conversations.0.updated", "x", "milliseconds"],
    ["conversations.0.settings.top_k", 1.5, "top_k: expected a whole number"], ["conversations.0.settings.temperature", 9, "from 0 to 2"],
    ["conversations.0.settings.system", [], "a text"], ["conversations.0.messages", "x", "a list"],
    ["conversations.0.messages.1.parent", "nobody", "null or the id of a message before it"], ["conversations.0.messages.0.parent", ask.id, "parent"],
    ["conversations.0.messages.1.id", ask.id, "no other message"], ["conversations.0.messages.0.role", "system", "user or assistant"],
    ["conversations.0.messages.0.content", { a: 1 }, "content"], ["conversations.0.messages.1.reasoning", 1, "reasoning"],
    ["conversations.0.messages.1.tokens", -1, "tokens"], ["conversations.0.messages.1.end", "never", "end"],
    ["conversations.0.selected.x", ask.id, "selected"], ["conversations.0.selected", null, "selected"],
  ]) {
    const bad = structuredClone(good);
    const steps = path.split(".");
    const last = steps.pop();
    steps.reduce((at, step) => at[step], bad)[last] = value;
    assert.throws(() => conversation.readExport(JSON.stringify(bad)), (error) => error instanceof TypeError && error.message.includes(says), path);
  }
  const next = random(3);
  const text = JSON.stringify(good);
  for (let round = 0; round < 2000; round++) { // refused, or a tree that can be walked
    const at = next(text.length);
    const bad = text.slice(0, at) + '{}[]",:0-e.nul\\'[next(17)] + text.slice(at + next(4));
    try {
      conversation.readExport(bad).forEach(conversation.pathOf);
    } catch (error) {
      assert.ok(error instanceof TypeError && /expected|no JSON/.test(error.message), `${error}: ${bad}`);
    }
  }
  assert.throws(() => conversation.readExport("{"), /no JSON/);
  assert.throws(() => conversation.readExport("[]"), /format/);
});
