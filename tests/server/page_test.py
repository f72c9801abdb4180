#!/usr/bin/env python3
"""The chat page in a headless Chromium, against a scripted server and, where METAL_MARLIN_SERVER_URL names one, a real one.

Usage: page_test.py [--screenshots FOLDER] [TEST...]    Debian's chromium, chromium-driver and python3-selenium
"""
import json
import os
import pathlib
import re
import sys
import tempfile
import time
import unittest

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from page_mock import Answer, Mock, chunk, event, header_fields

SERVER = os.environ.get("METAL_MARLIN_SERVER_URL")
SCREENSHOTS = None
OTHER_HOST = "chat.test"  # this machine by a name: to browsers no secure context, as on a network without HTTPS
PATIENCE = 60  # seconds, of a busy machine
WATCH = """
window.faults = [];
document.addEventListener("securitypolicyviolation", (e) => faults.push("policy: " + e.violatedDirective + " " + e.blockedURI));
window.addEventListener("error", (e) => faults.push("error: " + e.message));
window.addEventListener("unhandledrejection", (e) => faults.push("rejected: " + e.reason));
"""
# Visible texts whose contrast with what is behind them is below WCAG's AA.
CONTRAST = r"""
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const colour = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
const behind = (node) => { for (; node; node = node.parentElement) { const c = colour(getComputedStyle(node).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255]; };
const faint = [];
let checked = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.checkVisibility({checkVisibilityCSS: true, checkOpacity: true}) || node.closest(".hidden, :disabled, noscript, option")) continue;
  const [a, b] = [light(colour(getComputedStyle(node).color)), light(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  checked++;
  if (ratio < 4.5) faint.push(`${walker.currentNode.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return {checked, faint};
"""


def start_browser(downloads):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless=new", f"--host-resolver-rules=MAP {OTHER_HOST} 127.0.0.1", "--window-size=1200,800", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en", "--force-color-profile=srgb"):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.add_experimental_option("prefs", {"download.default_directory": downloads, "download.prompt_for_download": False})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    browser.set_script_timeout(PATIENCE)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    return browser


class PageCase(unittest.TestCase):
    """What tests of the page have in common; each begins with an empty browser."""
    allowed = ()  # forms of console messages that the test expects

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.browser = start_browser(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        cls.browser.quit()
        cls.folder.cleanup()

    def fresh(self, url):
        self.browser.get("about:blank")
        self.browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url.rstrip("/"), "storageTypes": "all"})
        self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        self.browser.get_log("browser")
        self.open(url)
        self.js("sessionStorage.clear()")

    def open(self, url):
        self.browser.get(url)
        self.wait(lambda: self.js("return document.querySelector('#model').options.length > 0 || !document.querySelector('#notice').hidden"), "the models")

    def tearDown(self):
        faults = [fault for fault in self.js("return window.faults") if not any(re.search(form, fault) for form in self.allowed)]
        self.assertEqual(faults, [])
        console = [entry["message"] for entry in self.browser.get_log("browser")]
        self.assertEqual([line for line in console if not any(re.search(form, line) for form in self.allowed)], [])
        self.allowed = ()

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition, what):
        WebDriverWait(self.browser, PATIENCE, poll_frequency=0.05).until(lambda _: condition(), f"waited for {what}")

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def every(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.js("return document.querySelector(arguments[0])?.textContent ?? null", selector)

    def messages(self):
        """What is shown: the texts of questions and answers."""
        return self.js("return [...document.querySelectorAll('article')].map((a) => a.querySelector('.text, .markdown').textContent)")

    def idle(self):
        self.wait(lambda: self.js("return document.querySelector('#stop').hidden && !document.querySelector('article[aria-busy=true]')"), "the answer's end")

    def say(self, text, wait=True):
        self.one("#draft").send_keys(text, Keys.ENTER)
        if wait:
            self.idle()

    def press(self, article, action):
        """A button of a message, which is counted from the end where it is negative."""
        self.every("article")[article].find_element(By.CSS_SELECTOR, f"[data-action={action}]").click()

    def shot(self, name):
        if SCREENSHOTS:
            self.js("document.activeElement.blur()")
            self.browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


class Page(PageCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.mock = Mock()

    @classmethod
    def tearDownClass(cls):
        cls.mock.close()
        super().tearDownClass()

    def setUp(self):
        self.mock.reset()
        self.fresh(self.mock.url)

    def test_a_conversation(self):
        self.say("hello there")
        self.assertEqual(self.messages(), ["hello there", "You said: hello there"])
        self.say("more")
        self.assertEqual([m["content"] for m in self.mock.requests[1]["messages"]], ["hello there", "You said: hello there", "more"])
        self.assertEqual(self.mock.requests[1]["stream_options"], {"include_usage": True})
        self.assertNotIn("temperature", self.mock.requests[1])
        self.assertRegex(self.text("article:last-child .meta"), r"^qwen3-4b-fp4 · 3 tokens")
        self.assertRegex(self.text("#context-text"), r"^Context: \d+ of 4,096 tokens$")
        self.assertEqual(self.js("return document.querySelector('#context-meter').max"), 4096)
        self.assertEqual(self.text("#status"), "Answer complete.")
        self.assertEqual(self.js("return document.title"), "hello there – Metal Marlin")

    def test_an_empty_message_is_not_sent_and_shift_enter_is_a_line(self):
        self.one("#draft").send_keys("  ", Keys.ENTER)
        self.one("#draft").send_keys("a", Keys.SHIFT, Keys.ENTER, Keys.NULL, "b", Keys.ENTER)
        self.idle()
        self.assertEqual([r["messages"][0]["content"] for r in self.mock.requests], ["a\nb"])

    def test_stop(self):
        self.mock.answers = [Answer(*["word "] * 400, pause=0.03)] * 2
        for stop in (lambda: self.one("#stop").click(), lambda: self.one("#draft").send_keys(Keys.ESCAPE)):
            self.mock.left.clear()
            self.say("go on", wait=False)
            self.wait(lambda: "word word" in self.messages()[-1], "some words")
            self.assertEqual(self.every("article")[-1].get_attribute("aria-busy"), "true")
            self.assertFalse(self.one("#send").is_displayed())
            stop()
            self.idle()
            self.assertTrue(self.mock.left.wait(10))  # the server is told
            self.assertEqual((self.text("article:last-child .hint"), self.text("article:last-child .fault")), ("Stopped.", ""))
            self.assertIn("word word", self.messages()[-1])
        self.say("again")
        self.assertEqual(self.messages()[-1], "You said: again")

    def test_regenerate_edit_and_branches(self):
        self.mock.answers = [Answer("one"), Answer("two"), Answer("three")]
        self.say("q")
        self.press(-1, "again")
        self.idle()
        self.assertEqual(self.messages(), ["q", "two"])
        place = lambda n: self.every("article")[n].find_element(By.CSS_SELECTOR, ".place").text  # noqa: E731
        self.assertEqual(place(1), "2/2")
        self.press(-1, "previous")
        self.assertEqual((self.messages(), place(1)), (["q", "one"], "1/2"))
        self.say("next")
        self.assertEqual(self.messages(), ["q", "one", "next", "three"])
        self.press(0, "edit")
        editor = self.one(".edit textarea")
        self.assertEqual(editor.get_attribute("value"), "q")
        editor.send_keys(" edited", Keys.ENTER)
        self.idle()
        self.assertEqual(self.messages(), ["q edited", "You said: q edited"])
        self.assertEqual([m["content"] for m in self.mock.requests[-1]["messages"]], ["q edited"])
        self.press(0, "previous")
        self.assertEqual(self.messages(), ["q", "one", "next", "three"])
        self.press(1, "next")
        self.assertEqual(self.messages(), ["q", "two"])
        self.press(1, "edit")  # an answer that is put right
        self.one(".edit textarea").send_keys(" and a half")
        self.one(".edit .primary").click()
        self.assertEqual((self.messages(), place(1)), (["q", "two and a half"], "3/3"))
        self.press(1, "edit")
        self.one(".edit textarea").send_keys("x", Keys.ESCAPE)
        self.assertEqual((self.messages(), place(1)), (["q", "two and a half"], "3/3"))
        self.assertEqual(self.js("return document.activeElement.dataset.action"), "edit")
        self.browser.refresh()
        self.wait(lambda: self.messages() == ["q", "two and a half"], "the conversation")

    def test_an_edit_waits_for_the_answer_that_is_written(self):
        self.say("q")
        self.press(0, "edit")
        self.mock.answers = [Answer(*["word "] * 400, pause=0.03)]
        self.say("meanwhile", wait=False)
        self.wait(lambda: self.messages()[-1], "the answer")
        self.one(".edit textarea").send_keys(" later", Keys.ENTER)
        self.assertFalse(self.one(".edit .primary").is_enabled())
        self.one("#stop").click()
        self.idle()
        self.assertEqual(len(self.mock.requests), 2)
        self.one(".edit textarea").send_keys(Keys.ENTER)
        self.idle()
        self.assertEqual(self.messages(), ["q later", "You said: q later"])

    def test_conversations_are_kept_renamed_deleted(self):
        self.say("first")
        self.one("#new-chat").click()
        self.assertEqual(self.messages(), [])
        self.say("second")
        titles = lambda: self.js("return [...document.querySelectorAll('#conversations .open')].map((b) => b.textContent)")  # noqa: E731
        self.assertEqual(titles(), ["second", "first"])
        self.browser.refresh()
        self.wait(lambda: self.messages() == ["second", "You said: second"] and titles() == ["second", "first"], "what was kept")
        self.one("#conversations li:nth-child(2) .open").click()
        self.assertEqual(self.messages()[0], "first")
        self.one("#conversations .current [data-action=rename]").click()
        self.one("#conversations input").send_keys(Keys.CONTROL, "a", Keys.NULL, "renamed", Keys.ENTER)
        self.wait(lambda: "renamed" in titles(), "the title")
        self.one("#conversations .current [data-action=rename]").click()
        self.one("#conversations input").send_keys("not this", Keys.ESCAPE)
        self.assertIn("renamed", titles())
        self.one("#conversations .current [data-action=remove]").click()
        self.one("#confirm-no").click()
        self.assertIn("renamed", titles())
        self.one("#conversations .current [data-action=remove]").click()
        self.one("#confirm-yes").click()
        self.wait(lambda: titles() == ["second"], "the deletion")
        self.browser.get(self.mock.url)
        self.wait(lambda: titles() == ["second"], "the list")
        self.assertEqual(self.messages(), [])

    def test_export_and_import(self):
        self.say("keep me")
        self.press(-1, "again")
        self.idle()
        self.one("#export-all").click()
        file = pathlib.Path(self.folder.name) / "metal-marlin-conversations.json"
        self.wait(file.exists, "the file")
        exported = json.loads(file.read_text(encoding="utf-8"))
        self.assertEqual([len(c["messages"]) for c in exported["conversations"]], [3])
        self.fresh(self.mock.url)
        self.one("#import-file").send_keys(str(file))
        self.wait(lambda: self.messages() == ["keep me", "You said: keep me"], "what was imported")
        self.one("#import-file").send_keys(str(file))  # once more changes nothing
        self.wait(lambda: "Imported: 1" in self.text("#status"), "the second import")
        self.assertEqual(len(self.every("#conversations li")), 1)
        exported["conversations"][0]["messages"][1]["parent"] = "nobody"
        file.write_text(json.dumps(exported), encoding="utf-8")
        self.one("#import-file").send_keys(str(file))
        self.wait(lambda: "messages[1].parent: expected" in self.text("#notice-text"), "the complaint")
        file.unlink()

    def test_two_windows_keep_each_others_messages(self):
        self.say("shared")
        first = self.browser.current_window_handle
        url = self.browser.current_url
        self.browser.switch_to.new_window("tab")
        self.browser.get(url)
        self.wait(lambda: len(self.messages()) == 2, "the conversation")
        self.say("from the second")
        self.browser.close()
        self.browser.switch_to.window(first)
        self.wait(lambda: len(self.messages()) == 4, "the other window's messages")
        self.assertEqual(self.messages()[2], "from the second")
        second = lambda: self.browser.switch_to.window(next(h for h in self.browser.window_handles if h != first))  # noqa: E731
        self.browser.switch_to.new_window("tab")
        self.browser.get(url)
        self.wait(lambda: len(self.messages()) == 4, "the conversation")
        self.browser.switch_to.window(first)
        self.mock.answers = [Answer(*["word "] * 150, pause=0.02)]  # while it is written, the other window adds what it has not
        self.say("slow", wait=False)
        self.wait(lambda: self.messages()[-1], "words")
        second()
        self.say("meanwhile")
        self.browser.close()
        self.browser.switch_to.window(first)
        self.idle()
        self.assertEqual(self.messages()[-1].split(), ["word"] * 150)
        self.browser.refresh()
        self.wait(lambda: len(self.messages()) >= 6, "the conversation")
        kept = self.browser.execute_async_script("const r = indexedDB.open('metal-marlin'); r.onsuccess = () => { const g = r.result.transaction('conversations')"
                                                 ".objectStore('conversations').getAll(); g.onsuccess = () => arguments[0](g.result); }")
        texts = [message["content"] for message in kept[0]["messages"]]
        self.assertEqual((len(kept), texts.count("slow"), texts.count("meanwhile"), len(texts)), (1, 1, 1, 8))

    def test_parameters(self):
        self.one("#open-settings").click()
        for name, value in (("system", "Be brief."), ("temperature", "0.25"), ("top_p", "0.9"), ("top_k", "40"), ("min_p", "0.05"), ("max_tokens", "77"), ("seed", "0")):
            self.one(f"#set-{name}").send_keys(value)
        self.one("#settings-save").click()
        self.js("document.querySelector('#model').value = 'other'; document.querySelector('#model').dispatchEvent(new Event('change'))")
        self.say("x")
        request = self.mock.requests[0]
        self.assertEqual(request["messages"][0], {"role": "system", "content": "Be brief."})
        self.assertEqual({k: v for k, v in request.items() if k not in ("messages", "stream", "stream_options")},
                         {"model": "other", "temperature": 0.25, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 77, "seed": 0})
        self.assertIn("of 512", self.text("#context-text"))
        self.one("#open-settings").click()
        for field, bad, says in (("temperature", "3", "Temperature: expected a number from 0 to 2"), ("top_k", "1.5", "Top k: expected a whole number"),
                                 ("seed", "-1", "Seed: expected")):
            self.js("document.querySelector(arguments[0]).value = arguments[1]", f"#set-{field}", bad)
            self.one("#settings-save").click()
            self.assertIn(says, self.text("#settings-fault"))
            self.assertEqual(self.js("return document.activeElement.id + document.activeElement.ariaInvalid"), f"set-{field}true")
            self.js("document.querySelector(arguments[0]).value = ''", f"#set-{field}")
        self.one("#settings-cancel").click()
        self.browser.refresh()
        self.wait(lambda: len(self.messages()) == 2 and self.js("return document.querySelector('#model').value") == "other", "the conversation")
        self.one("#new-chat").click()
        self.one("#open-settings").click()
        self.assertEqual(self.js("return document.querySelector('#set-top_k').value"), "40")
        self.one("#settings-cancel").click()

    def test_thinking_is_folded(self):
        self.mock.answers = [Answer("The ", "answer.", thoughts=["<b>Hm", "m</b> ", "**so**"], pause=0.4)]
        self.say("think", wait=False)
        self.wait(lambda: self.text("summary") == "Thinking…", "thoughts")
        self.assertEqual(self.text("#status"), "Thinking…")
        self.idle()
        self.assertRegex(self.text("summary"), r"^Thought for \d\.\d s$")
        self.assertEqual(self.text(".thoughts"), "<b>Hmm</b> **so**")
        self.assertFalse(self.one(".thoughts").is_displayed())
        self.one("summary").click()
        self.assertTrue(self.one(".thoughts").is_displayed())
        self.assertEqual(self.messages()[1], "The answer.")
        self.say("next")
        self.assertNotIn("Hmm", json.dumps(self.mock.requests[-1]))

    def test_markdown(self):
        text = ("# Title\n\nA **bold** and *slanted* `code`.\n\n- one\n  - two\n\n3. three\n\n> said\n\n| a | b |\n|---|--:|\n| 1 | **2** |\n\n"
                "```python\nprint('<hi>')\n```\n\n[link](https://example.org/) ![image](https://example.org/x.png)\n")
        self.mock.answers = [Answer(*text, split=3)]
        self.say("show")
        self.wait(lambda: self.every(".markdown a"), "links")
        tags = self.js("return [...document.querySelectorAll('.markdown *')].map((e) => e.localName)")
        for tag in ("h3", "strong", "em", "code", "ul", "ol", "blockquote", "table", "th", "td", "pre", "a"):
            self.assertIn(tag, tags)
        self.assertNotIn("img", tags)
        self.assertEqual(self.text(".markdown pre"), "print('<hi>')")
        for link in self.every(".markdown a"):
            self.assertEqual((link.get_attribute("rel"), link.get_attribute("target")), ("noopener noreferrer", "_blank"))
        self.browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
        self.one("[data-action=copy-code]").click()
        self.wait(lambda: self.text("[data-action=copy-code]") == "Copied", "the copy")
        self.assertEqual(self.browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])"), "print('<hi>')")
        self.wait(lambda: self.text("[data-action=copy-code]") == "Copy", "the label")

    def test_what_a_model_writes_is_never_html(self):
        hostile = ["<script>window.hit = 1</script>", "<img src=x onerror='window.hit=1'>", "<svg onload=window.hit=1>", "[x](javascript:window.hit=1)",
                   "[x](  JaVaScRiPt:window.hit=1)", "[x](java&#10;script:window.hit=1)", "<javascript:window.hit=1>", "[x](data:text/html,<script>1</script>)",
                   "![x](https://evil.example/steal.png)", "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>", "`<script>window.hit=1</script>`",
                   "```<b onclick=1>\n<script>window.hit=1</script>\n```", "| <script>window.hit=1</script> | b |\n|---|---|\n| <img src=x onerror=window.hit=1> | 2 |",
                   "<style>*{display:none}</style>", "<a href='javascript:window.hit=1'>x</a>", "</div></article><h1>out</h1>", "# <script>window.hit=1</script>",
                   "[x](https://a.b/\"onmouseover=\"window.hit=1)", "<https://a.b/' onclick='window.hit=1>", "<base href='https://evil.example/'>",
                   "<form action='https://evil.example/'><input></form>", "&lt;script&gt;window.hit=1&lt;/script&gt;"]
        self.mock.answers = [Answer("\n\n".join(hostile), thoughts=hostile)]
        self.mock.models[0]["id"] = "<img src=x onerror=window.hit=1>"
        self.browser.refresh()
        self.open(self.mock.url)
        self.say("<script>window.hit=1</script><img src=x onerror=window.hit=1>")
        self.assertEqual(self.messages()[0], "<script>window.hit=1</script><img src=x onerror=window.hit=1>")
        made = set(self.js("return [...document.querySelectorAll('#log *')].map((e) => e.localName)"))
        self.assertEqual(made - {"article", "header", "h3", "span", "div", "p", "button", "details", "summary", "a", "code", "pre", "table", "tbody", "tr", "th", "td", "br"}, set())
        attributes = set(self.js("return [...document.querySelectorAll('#log *')].flatMap((e) => e.getAttributeNames())"))
        self.assertEqual({name for name in attributes if name.startswith("on") or name in ("src", "style", "srcdoc")}, set())
        for link in self.js("return [...document.querySelectorAll('#log a')].map((a) => a.protocol)"):
            self.assertIn(link, ("http:", "https:", "mailto:"))
        for link in self.every("#log summary"):
            link.click()
        time.sleep(0.2)
        self.assertIsNone(self.js("return window.hit ?? null"))
        self.assertIn("<script>window.hit = 1</script>", self.messages()[1])

    def test_the_policy_holds(self):
        self.allowed = ("policy: ", "Content Security Policy", "TrustedHTML", "TrustedScript", "violates the following")
        self.assertIn("TrustedHTML", self.js("try { document.querySelector('#log').innerHTML = '<b>x</b>'; } catch (error) { return error.message; }"))
        for script in ("const s = document.createElement('style'); s.textContent = 'body{}'; document.head.append(s)",
                       "document.querySelector('#log').setAttribute('style', 'color: red')",
                       "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'", "fetch('http://127.0.0.1:9/').catch(() => {})",
                       "const f = document.createElement('iframe'); f.src = '/'; document.body.append(f)",
                       "const b = document.createElement('base'); b.href = 'http://127.0.0.1:9/'; document.head.append(b)"):
            self.js("window.faults.length = 0")
            self.js(script)
            self.wait(lambda: any("policy: " in fault for fault in self.js("return window.faults")), script)

    def test_errors_are_words(self):
        self.allowed = ("Failed to load resource", "net::ERR")
        too_long = json.dumps({"error": {"message": "the prompt has 5000 tokens, the model takes 4096"}})
        for answer, says in (
            (Answer(status=400, body=too_long), "The server refused (400): the prompt has 5000 tokens"),
            (Answer(status=500, body="<html>oops</html>"), "The server failed (500)."),
            (Answer(status=503, body="loading"), "The server is not ready (503): loading"),
            (Answer(status=429, body="{}"), "The server is busy (429)."),
            (Answer("Some ", "words", event({"choices": []}), end="cut", pause=0.1), "The connection to the server broke off in the middle of the answer."),
            (Answer("Some ", "words", end="stop"), "The server ended the connection in the middle of the answer."),
            (Answer("Some ", "words", event({"error": {"message": "out of memory"}})), "The server failed: out of memory"),
            (Answer("Some ", "words", event(chunk({"a": 1}))), "The server sent what is no piece of an answer"),
            (Answer("Some ", "words", event({"choices": [], "usage": {"prompt_tokens": "x"}})), "The server sent what is no piece of an answer"),
            (Answer("Some ", "words", event("{oh")), "The server sent what is no JSON: {oh"),
        ):
            self.mock.answers = [answer]
            self.say("x")
            self.assertIn(says, self.text("article:last-child .fault"))
            if answer.pieces:
                self.assertEqual(self.messages()[-1], "Some words")
            self.press(-1, "again")  # and it goes on
            self.idle()
            self.assertEqual((self.messages()[-1], self.text("article:last-child .fault")), ("You said: x", ""))

    def test_busy_server_is_asked_again(self):
        self.allowed = ("429", "503")
        self.mock.answers = [Answer(status=429, headers=(("Retry-After", "2"),)), Answer(status=503, headers=(("Retry-After", "1"),)), Answer("at last"), Answer(status=429, headers=(("Retry-After", "100"),))]
        self.say("x", wait=False)
        self.wait(lambda: "trying again in" in self.text("#status"), "the countdown")
        self.idle()
        self.assertEqual((self.messages()[-1], len(self.mock.requests)), ("at last", 3))
        self.say("y", wait=False)
        self.wait(lambda: "trying again in" in self.text("#status"), "the countdown")
        self.one("#stop").click()
        self.idle()
        self.assertEqual((len(self.mock.requests), self.text("article:last-child .hint")), (4, "Stopped."))

    def test_a_server_that_is_gone(self):
        self.allowed = ("net::ERR", "Failed to load")
        mock = Mock()
        try:
            self.open(mock.url)
            self.say("before")
        finally:
            mock.close()
        self.say("after")
        self.assertEqual(self.text("article:last-child .fault"), "The server cannot be reached. Is it running?")

    def test_without_https(self):
        self.fresh(self.mock.url.replace("127.0.0.1", OTHER_HOST))
        self.assertFalse(self.js("return isSecureContext"))
        self.mock.answers = [Answer("```\ncopied code\n```")]
        self.say("code")
        self.one("[data-action=copy-code]").click()
        self.wait(lambda: self.text("[data-action=copy-code]") == "Copied", "the copy")
        self.one("#draft").send_keys(Keys.CONTROL, "v")
        self.assertEqual(self.one("#draft").get_attribute("value"), "copied code")
        self.browser.refresh()
        self.wait(lambda: len(self.messages()) == 2, "the conversation")

    def test_api_key(self):
        self.allowed = ("401",)
        self.mock.key = "secret-1"
        self.browser.refresh()
        self.wait(lambda: "wants an API key" in self.text("#notice-text"), "the question")
        self.one("#notice-action").click()
        self.assertEqual(self.js("return document.activeElement.id"), "set-key")
        self.one("#set-key").send_keys("secret-1", Keys.ENTER)
        self.wait(lambda: self.js("return document.querySelector('#model').options.length") == 2, "the models")
        self.say("in")
        self.assertEqual(self.messages()[-1], "You said: in")
        self.assertEqual(self.js("return [localStorage, sessionStorage].map((s) => JSON.stringify(s).includes('secret-1'))"), [False, True])
        self.one("#open-settings").click()
        self.one("#set-key-keep").click()
        self.one("#settings-save").click()
        self.assertEqual(self.js("return [localStorage, sessionStorage].map((s) => JSON.stringify(s).includes('secret-1'))"), [True, False])
        self.one("#export-all").click()
        file = pathlib.Path(self.folder.name) / "metal-marlin-conversations.json"
        self.wait(file.exists, "the file")
        self.assertNotIn("secret-1", file.read_text(encoding="utf-8"))
        file.unlink()

    def test_context_from_tokenize(self):
        self.mock.models = [{"id": "m"}]
        self.mock.tokenize_context = 321
        self.browser.refresh()
        self.wait(lambda: "of 321 tokens" in self.text("#context-text"), "the context")

    def test_full_storage(self):
        self.browser.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {"origin": self.mock.url.rstrip("/"), "quotaSize": 2000})
        try:
            self.mock.answers = [Answer("x" * 400000)]
            self.say("much")
            self.wait(lambda: "storage is full" in self.text("#notice-text"), "the warning")
            self.assertEqual(len(self.messages()[-1]), 400000)
            self.one("#notice-close").click()
        finally:
            self.browser.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {"origin": self.mock.url.rstrip("/")})

    def test_an_answer_cut_by_a_reload(self):
        self.mock.answers = [Answer(*["word "] * 2000, pause=0.01)]
        self.say("long", wait=False)
        self.wait(lambda: len(self.messages()[-1]) > 2500, "words")  # beyond the first time that it is kept
        self.browser.refresh()
        self.wait(lambda: len(self.messages()) == 2, "the conversation")
        self.assertIn("word word", self.messages()[-1])
        self.assertEqual(self.text("article:last-child .hint"), "Cut off when the page was closed.")

    def test_other_conversation_while_answering(self):
        self.mock.answers = [Answer(*["word "] * 100, pause=0.02)]
        self.say("long", wait=False)
        self.wait(lambda: "word" in self.messages()[-1], "words")
        self.one("#new-chat").click()
        self.say("short")
        self.assertEqual(self.messages(), ["short", "You said: short"])
        self.one("#conversations li:nth-child(2) .open").click()
        self.idle()
        self.assertEqual(self.messages()[-1].split(), ["word"] * 100)

    def test_split_characters_and_long_answers(self):
        self.mock.answers = [Answer("日本語 🐟 é", split=1)]
        self.say("split")
        self.assertEqual(self.messages()[-1], "日本語 🐟 é")
        paragraphs = [f"word{i} " if i % 40 else "\n\n- **x** " for i in range(10000)]
        code = ["```\n"] + [f"line {i}\n" for i in range(10000)] + ["```"]
        for pieces in (paragraphs, code):
            cost = []
            for part in (pieces[:5000], pieces):
                self.fresh(self.mock.url)
                self.browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
                self.mock.answers = [Answer(*part, pause=0.0005)]
                self.say("long")
                metrics = {m["name"]: m["value"] for m in self.browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
                cost.append(metrics["ScriptDuration"] + metrics["LayoutDuration"] + metrics["RecalcStyleDuration"])
            self.assertIn("9999", self.messages()[-1][-20:])
            print(f"\n  {len(pieces)} tokens: {cost[1]:.2f} s of script, style and layout; half of them: {cost[0]:.2f} s")
            self.assertLess(cost[1], 4 * cost[0] + 1)

    def names(self):
        """[(role, name)] of what can be used, from the accessibility tree."""
        used = {"button", "textbox", "combobox", "spinbutton", "checkbox", "link", "meter", "dialog", "DisclosureTriangle", "region", "log", "navigation",
                "complementary"}
        nodes = self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"] and n["role"]["value"] in used]

    def test_accessible_names(self):
        self.mock.answers = [Answer("```js\nx\n```\n[a](https://a.b)\n\n| a |\n|---|\n| b |", thoughts=["hm"])] * 2
        self.say("x")
        self.press(-1, "again")
        self.idle()
        seen = self.names()
        self.one("#open-settings").click()
        seen += self.names()
        self.one("#settings-cancel").click()
        self.one("#conversations .current [data-action=remove]").click()
        seen += self.names()
        self.one("#confirm-no").click()
        self.press(0, "edit")
        seen += self.names()
        self.assertEqual([entry for entry in seen if not entry[1].strip()], [])
        self.assertGreater(len(set(seen)), 30)
        for wanted in (("log", "Conversation"), ("combobox", "Model"), ("textbox", "Message"), ("button", "Regenerate the answer"), ("spinbutton", "Temperature"),
                       ("textbox", "Edited message"), ("button", "Copy the js code"), ("dialog", "Settings"), ("button", "Next version")):
            self.assertIn(wanted, seen)
        self.assertEqual(self.js("return document.querySelector('#log').ariaLive"), "polite")
        ids = self.js("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
        self.assertEqual(len(ids), len(set(ids)))

    def keys(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    def chord(self, modifier, key):
        ActionChains(self.browser).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def focused(self):
        return self.js("const e = document.activeElement; return e.id || e.dataset.action || e.localName")

    def test_keyboard_alone(self):
        self.assertEqual(self.focused(), "draft")
        self.keys("by keys", Keys.ENTER)
        self.idle()
        self.assertEqual(self.focused(), "draft")
        order = []
        for _ in range(4):
            self.chord(Keys.SHIFT, Keys.TAB)
            order.append(self.focused())
        self.assertEqual(order, ["again", "edit", "copy", "edit"])
        self.keys(Keys.ENTER)
        self.keys(" twice", Keys.ENTER)
        self.idle()
        self.assertEqual(self.messages(), ["by keys twice", "You said: by keys twice"])
        self.chord(Keys.CONTROL, "k")
        self.assertEqual((self.messages(), self.focused()), ([], "draft"))
        self.js("document.body.focus(); document.activeElement.blur(); getSelection().removeAllRanges()")
        self.browser.refresh()
        self.wait(lambda: self.focused() == "draft" and self.every("#conversations li"), "the page")
        ring = ["new-chat", "open", "export-all", "import", "model", "theme", "open-settings", "scroller", "draft", "send"]
        seen = []
        for _ in range(2 * len(ring) + 8):
            self.keys(Keys.TAB)
            seen.append(self.focused())
        seen = [name for name in seen[seen.index("new-chat"):] if name in ring]
        self.assertEqual(seen[:len(ring)], ring)
        visible = self.js("document.querySelector('#theme').focus({focusVisible: true}); return getComputedStyle(document.querySelector('#theme')).outlineStyle")
        self.assertEqual(visible, "solid")
        self.js("document.querySelector('#open-settings').focus()")
        self.keys(Keys.ENTER)
        self.assertTrue(self.js("return document.querySelector('#settings').open"))
        self.keys(Keys.ESCAPE)
        self.assertEqual((self.js("return document.querySelector('#settings').open"), self.focused()), (False, "open-settings"))

    def narrow(self, width=360, height=700):
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True})

    def test_narrow(self):
        self.narrow(320)
        wide = "| a | b |\n|---|---|\n| " + "x" * 300 + " | 2 |\n\n```\n" + "y" * 300 + "\n```\n\n" + "z" * 300 + "\n\n[" + "l" * 200 + "](https://a.b)"
        self.mock.answers = [Answer(wide)]
        self.say("w" * 300)
        self.press(-1, "again")
        self.idle()
        self.mock.answers = [Answer(wide)]
        self.press(-1, "again")
        self.idle()
        self.assertLessEqual(self.js("return document.scrollingElement.scrollWidth"), 320)
        self.assertEqual(self.js("return [...document.querySelectorAll('main button, main select, main textarea, article')].filter((e) => e.checkVisibility() && "
                                 "!e.closest('.hidden') && (e.getBoundingClientRect().right > 320.5 || e.getBoundingClientRect().left < 0)).map((e) => e.outerHTML.slice(0, 80))"), [])
        self.assertEqual(self.js("return document.querySelector('#scroller').scrollWidth <= document.querySelector('#scroller').clientWidth"), True)
        self.assertFalse(self.one("#new-chat").is_displayed())
        self.one("#open-sidebar").click()
        self.wait(lambda: self.one("#new-chat").is_displayed(), "the drawer")
        self.assertEqual(self.one("#open-sidebar").get_attribute("aria-expanded"), "true")
        self.keys(Keys.ESCAPE)
        self.wait(lambda: not self.one("#new-chat").is_displayed(), "the drawer's end")
        self.assertEqual(self.focused(), "open-sidebar")
        self.one("#open-settings").click()
        self.assertLessEqual(self.js("return document.querySelector('#settings').getBoundingClientRect().right"), 320)
        self.one("#settings-cancel").click()

    def media(self, **features):
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]})

    def test_dark_and_contrast(self):
        ground = lambda: self.js("return getComputedStyle(document.body).backgroundColor")  # noqa: E731
        self.mock.answers = [Answer("# T\n\n[a](https://a.b) `c`\n\n> q\n\n```\nx\n```\n| a |\n|---|\n| b |", thoughts=["hm"], finish="length"), Answer(status=500, body="{}")]
        self.allowed = ("500",)
        self.say("x")
        self.say("y")
        self.one("summary").click()
        light = ground()
        for scheme in ("light", "dark"):
            self.media(prefers_color_scheme=scheme)
            self.assertEqual(ground() == light, scheme == "light")
            self.assertEqual(self.one("#theme").get_attribute("aria-pressed"), str(scheme == "dark").lower())
            for dialog in (None, "settings", "confirm"):
                if dialog:
                    self.js("document.querySelector('#settings-fault').textContent = document.querySelector('#confirm-text').textContent = 'Text'; "
                            "document.getElementById(arguments[0]).showModal()", dialog)
                found = self.js(CONTRAST)
                self.assertEqual(found["faint"], [], scheme)
                self.assertGreater(found["checked"], 20)
                if dialog:
                    self.js("document.getElementById(arguments[0]).close()", dialog)
        self.one("#theme").click()  # a choice of one's own
        self.assertEqual(ground(), light)
        self.browser.refresh()
        self.wait(lambda: len(self.messages()) == 4, "the page")
        self.assertEqual(ground(), light)
        self.one("#theme").click()  # back to the system's
        self.media(prefers_color_scheme="light")
        self.assertEqual(ground(), light)
        self.media(prefers_reduced_motion="reduce")
        self.assertEqual(self.js("return getComputedStyle(document.querySelector('#sidebar')).transitionDuration"), "0s")

    def test_scrolling_is_not_taken_away(self):
        self.mock.answers = [Answer(*["line\n\n"] * 300, pause=0.01)]
        self.say("long", wait=False)
        at_end = lambda: self.js("const s = document.querySelector('#scroller'); return s.scrollHeight - s.scrollTop - s.clientHeight < 60")  # noqa: E731
        self.wait(lambda: self.js("return document.querySelector('#scroller').scrollTop > 400"), "it to follow")
        self.js("document.querySelector('#scroller').scrollTop = 0")
        self.wait(lambda: self.one("#to-end").is_displayed(), "the button")
        self.idle()
        self.assertEqual(self.js("return document.querySelector('#scroller').scrollTop"), 0)
        self.one("#to-end").click()
        self.assertTrue(at_end())

    def test_screenshots(self):
        """The pictures of the documentation; without --screenshots the same is shown and none taken."""
        text = ("Two numbers of **4 bits** share a byte:\n\n```cpp\nuint8_t pack(uint8_t low, uint8_t high) {\n  return low | (high << 4);\n}\n```\n\n"
                "| format | element | group |\n|---|---|--:|\n| fp4 | E2M1 | 32 |\n| nvfp4 | E2M1 | 16 |\n\n1. Find each group's scale.\n2. Round, then pack.\n")
        self.mock.answers = [Answer(*re.findall(r"\s*\S+", text), thoughts=["They want a short answer. "] * 40, pause=0.02)]
        self.say("How are 4-bit weights packed?")
        for name, scheme in (("chat-light", "light"), ("chat-dark", "dark")):
            self.media(prefers_color_scheme=scheme)
            self.shot(name)
        self.media(prefers_color_scheme="light", prefers_reduced_motion="reduce")
        self.narrow()
        self.js("document.querySelector('#scroller').scrollTop = 0")
        self.shot("chat-mobile")
        self.assertEqual(len(self.every(".markdown pre")), 1)


class RealServer(PageCase):
    def setUp(self):
        self.fresh(SERVER.rstrip("/") + "/")

    def test_a_conversation(self):
        sent = self.browser.execute_async_script("fetch(location.pathname).then((r) => arguments[0](Object.fromEntries(r.headers)))")
        for name, value in header_fields():
            self.assertEqual(sent.get(name.lower()), value)
        self.one("#open-settings").click()
        self.one("#set-max_tokens").send_keys("24")
        self.one("#set-temperature").send_keys("0")
        self.one("#settings-save").click()
        self.say("Say hello.")
        self.assertEqual(self.text("article:last-child .fault"), "")
        first = self.messages()
        self.assertTrue(first[1].strip() or self.text(".thoughts"))
        self.assertRegex(self.text("article:last-child .meta"), r"\d+ tokens")
        self.assertRegex(self.text("#context-text"), r"of [\d,]+ tokens")
        self.press(-1, "again")
        self.idle()
        self.assertEqual(self.messages(), first)  # temperature 0
        self.browser.refresh()
        self.wait(lambda: self.messages() == first, "the conversation")

    def test_stop(self):
        self.say("Count from one to a thousand, in words.", wait=False)
        self.wait(lambda: len(self.messages()) == 2 and (self.messages()[1] or self.text(".thoughts")), "the first words")
        self.one("#stop").click()
        self.idle()
        self.assertEqual(self.text("article:last-child .hint"), "Stopped.")


if not SERVER:
    del RealServer

if __name__ == "__main__":
    if "--screenshots" in sys.argv:
        at = sys.argv.index("--screenshots")
        SCREENSHOTS = pathlib.Path(sys.argv[at + 1])
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        del sys.argv[at:at + 2]
    unittest.main(verbosity=2)
