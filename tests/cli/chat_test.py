#!/usr/bin/env python3
"""`metal-marlin chat`, from a pipe and on a terminal.

Usage: chat_test.py METAL_MARLIN MODEL_FOLDER
"""
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from chat_model import make_chat_model

PROGRAM, FIXTURE = os.path.abspath(sys.argv[1]), sys.argv[2]
HAS_EDITOR = b"libedit" in pathlib.Path(PROGRAM).read_bytes()


class Chat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.holder.cleanup)
        cls.folder = pathlib.Path(cls.holder.name)
        cls.model = make_chat_model(FIXTURE, cls.folder / "model")

    def run_chat(self, text, *flags, code=0, says=""):
        done = subprocess.run([PROGRAM, "chat", self.model, "--threads", "1", *flags], input=text.encode(), cwd=self.folder,
                              capture_output=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(says, done.stderr.decode())
        return done.stdout.decode()

    def messages(self, name="saved.json"):
        return json.loads((self.folder / name).read_text())


class Pipe(Chat):
    def test_answers_alone_are_printed(self):
        out = self.run_chat("hello\n\nagain\n/save saved.json\n", "-n", "12", says="ends after max_tokens, 12")
        saved = self.messages()
        self.assertEqual([(m["role"], m["content"]) for m in saved[::2]], [("user", "hello"), ("user", "again")])
        self.assertIn("\033[", saved[1]["content"] + saved[3]["content"])
        self.assertNotIn("\033", out)
        self.assertIn("\\x1b[", out)
        self.assertNotIn("> ", out.replace("\\x1b", ""))
        generated = subprocess.run([PROGRAM, "generate", self.model, "--chat", "-p", "hello", "-n", "12", "--json"],
                                   capture_output=True, check=True)
        self.assertEqual(saved[1]["content"], json.loads(generated.stdout)["text"])

    def test_only_new_tokens_are_computed(self):
        out = self.run_chat("some words to begin with\n/tokens\nand more\n/tokens\n/regen\n/tokens\n", "-n", "20")
        reports = re.findall(r"(\d+) of 4096 tokens.*\nlast answer: prompt (\d+) tokens, (\d+) of them.*generated (\d+)", out)
        (_, prompt, cached, generated), (_, more, more_cached, _), (_, again, again_cached, _) = [
            [int(number) for number in report] for report in reports]
        self.assertEqual((cached, generated), (0, 20))
        # Whole pages of all that the cache holds: the last token that is drawn is never computed.
        self.assertEqual(more_cached, (prompt + generated - 1) // 16 * 16)
        self.assertEqual((again, again_cached), (more, (more - 1) // 16 * 16))

    def test_settings_and_seeds(self):
        script = "/set temperature 2\n/set seed 5\n/set max_tokens 8\nhello\n/regen\n"
        first, second = self.run_chat(script), self.run_chat(script)
        self.assertEqual(first, second)
        save = "/save {0}\n/regen\n/save {1}\n/set\n"
        out = self.run_chat(script + save.format("one.json", "two.json"))
        self.assertTrue(out.startswith(first))
        self.assertNotEqual(self.messages("one.json")[1], self.messages("two.json")[1])
        self.assertEqual(len(self.messages("two.json")), 2)
        for line in ("temperature 2\n", "seed 5\n", "max_tokens 8\n"):
            self.assertIn(line, out)
        self.run_chat("/set top_p 5\n", code=2, says="top-p is 5")
        self.run_chat("/set top_p x\n", code=2, says="top_p is 'x', expected a number")
        self.run_chat("/set max_tokens -1\n", code=2, says="max_tokens is '-1'")
        self.run_chat('/set messages=[{"role":"user","content":"x"}]\n', code=2, says="messages is not a variable to be set")
        self.run_chat("/set nothing 1\n", code=2, says="expected one of temperature, top_k")

    def test_messages_are_saved_and_loaded(self):
        self.run_chat("one\n/system another\ntwo\n/save saved.json\n/load saved.json\n/save again.json\n", "-n", "3",
                      "--system", "first")
        self.assertEqual(self.messages(), self.messages("again.json"))
        self.assertEqual([m["role"] for m in self.messages()], ["system", "user", "assistant", "user", "assistant"])
        self.assertEqual(self.messages()[0]["content"], "another")
        rendered = subprocess.run([PROGRAM, "render", self.model, "--messages", self.folder / "saved.json"],
                                  capture_output=True, check=True)
        self.assertIn(b"<|im_start|>user\ntwo<|im_end|>", rendered.stdout)
        self.run_chat("/load saved.json\n/clear\n/system\nthree\n/save new.json\n", "-n", "1")
        self.assertEqual([m["role"] for m in self.messages("new.json")], ["user", "assistant"])
        self.assertEqual(list(self.folder.glob("*.partial*")), [])
        for text, code, says in (("[", 4, "bad.json"), ("{}", 4, "a list of messages"), ('[{"content": "x"}]', 3, "role"),
                                 ('[{"role": 5}]', 4, "role"), ("[5]", 4, "message 0"),
                                 ('[{"role": "user"}]', 3, "content"), ('[{"role": "user", "content": null}]', 4, "content"),
                                 ('[{"role": "user", "content": {"a": 1}}]', 4, "content"), ('[{"role": "user", "content": 5}]', 4, "content"),
                                 (json.dumps([{"role": "user", "content": "a"} | {str(i): 1 for i in range(5000)}]), 4, "an object of 5002 fields")):
            (self.folder / "bad.json").write_text(text)
            self.run_chat("/load bad.json\n", code=code, says=says)
        self.run_chat("/load none.json\n", code=3, says="none.json")
        os.mkfifo(self.folder / "pipe")  # which nobody writes to
        for name in (".", "pipe", "/dev/zero"):
            self.run_chat(f"/load {name}\n", code=2, says=f"{name}: not a regular file")
        self.run_chat("/load -\n[]\n", code=3, says="./-")
        self.run_chat("/save none/saved.json\n", code=6, says="none/saved.json")

    def test_texts_of_several_lines(self):
        self.run_chat('a\\\nb\n"""\n/c\n\nd"""\n"""e"""\r\nf\n/save saved.json', "-n", "1")
        self.assertEqual([m["content"] for m in self.messages()[::2]], ["a\nb", "/c\n\nd", "e", "f"])
        self.run_chat('"""a\nb\n', code=2, says='before the closing """')

    def test_commands_that_are_none(self):
        self.run_chat("/none\nhello\n", code=2, says="/none: no such command")
        self.run_chat("/save\n", code=2, says="/save: expected FILE")
        self.run_chat("/regen\n", code=2, says="no message of the user")
        self.assertEqual(self.run_chat("/exit\n/none\n"), "")
        self.assertIn("/tokens", self.run_chat("/help\n"))

    def test_a_context_that_is_full(self):
        self.run_chat("hi\n", "--context", "64", says="43 of answer are all of 64")
        out = self.run_chat("a" * 100 + "\n", "--context", "64", code=2, says="with this message has 119 tokens")
        self.assertEqual(out, "")
        self.run_chat("a" * 100 + "\n", "--context", "64", code=2, says="--context takes up to 4096")
        # An answer that ended for want of room leaves none for more.
        self.run_chat("hi\n/clear\nhi\nmore\n", "--context", "64", code=2, says="the context is full: the conversation")

    def test_thoughts_stand_between_their_tags(self):
        out = self.run_chat("hi\n/save saved.json\n", "--set", "think=true", "-n", "6")
        self.assertTrue(out.startswith("<think>\n"))
        self.assertTrue(out.endswith("\n</think>\n"))
        answer = self.messages()[1]
        self.assertEqual(answer["content"], "")
        self.assertTrue(answer["reasoning_content"])
        self.assertNotIn("<think>", self.run_chat("/set think=true\n/set think=false\nhi\n", "-n", "6"))


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, test, *arguments, **environment):
        self.test = test
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execve(arguments[0], [str(a) for a in arguments],
                      {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | environment)
        self.seen = ""
        self.code = None
        test.addCleanup(self.close)

    def close(self):
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)

    def read(self, deadline):
        if not select.select([self.descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
            self.test.fail(f"nothing more came after {self.seen!r}")
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # what Linux says when the other side is closed
            data = b""
        self.seen += data.decode(errors="replace")
        return data

    def expect(self, text):
        """Everything until a text, which is waited for."""
        deadline = time.monotonic() + 60
        while text not in self.seen:
            if not self.read(deadline):
                self.test.fail(f"{text!r} did not come: {self.seen!r}")
        before, self.seen = self.seen.split(text, 1)
        return before

    def send(self, text):
        os.write(self.descriptor, text.encode())

    def end(self):
        deadline = time.monotonic() + 60
        while self.read(deadline):
            pass
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


class OnTerminal(Chat):
    def start(self, *flags, **environment):
        terminal = Terminal(self, PROGRAM, "chat", self.model, "--threads", "1", *flags, **environment)
        terminal.expect("/help lists commands")
        terminal.expect("> ")
        return terminal

    def test_ctrl_c_stops_an_answer_and_leaves_at_the_prompt(self):
        terminal = self.start()
        terminal.send("hello\n")
        terminal.expect("\\x1b[")
        terminal.send("\x03")
        terminal.expect("stopped; what came is kept")
        terminal.expect("> ")
        terminal.send(f"/save {self.folder}/stopped.json\n")
        terminal.expect("> ")
        roles = [message["role"] for message in self.messages("stopped.json")]
        self.assertEqual(roles, ["user", "assistant"])
        terminal.send("never sent\x03")
        terminal.expect("Ctrl-C again or Ctrl-D leaves")
        terminal.expect("> ")
        terminal.send("\x03")
        self.assertEqual(terminal.end(), 0)

    def test_errors_do_not_end_it(self):
        terminal = self.start("-n", "1")
        terminal.send("/none\n")
        terminal.expect("error: /none: no such command")
        terminal.expect("> ")
        terminal.send("/load none\n")
        terminal.expect("error: ")
        terminal.expect("> ")
        terminal.send("\x04")
        self.assertEqual(terminal.end(), 0)

    def test_thoughts_are_dim(self):
        terminal = self.start("-n", "4", "--set", "think=true")
        terminal.send("hello\n")
        terminal.expect("\033[2m")
        terminal.expect("\033[0m")
        terminal.send("/exit\n")
        self.assertEqual(terminal.end(), 0)
        terminal = self.start("-n", "4", "--set", "think=true", NO_COLOR="1")
        terminal.send("hello\n")
        self.assertNotIn("\033[2m", terminal.expect("</think>"))

    @unittest.skipUnless(HAS_EDITOR, "built without libedit")
    def test_lines_are_edited_and_remembered(self):
        terminal = self.start("-n", "1")
        terminal.send("helxo\x02\x7fl\n")  # back, delete
        terminal.expect("ends after max_tokens")
        terminal.expect("> ")
        terminal.send("\033[A\n")  # up
        terminal.expect("ends after max_tokens")
        terminal.expect("> ")
        terminal.send("gr\u00fc\u00dfe\n")
        terminal.expect("ends after max_tokens")
        terminal.expect("> ")
        terminal.send(f"/save {self.folder}/edited.json\n")
        terminal.expect("> ")
        self.assertEqual([m["content"] for m in self.messages("edited.json")[::2]], ["hello", "hello", "gr\u00fc\u00dfe"])

    def test_a_request_to_end_is_followed(self):
        terminal = self.start()
        os.kill(terminal.pid, signal.SIGTERM)
        self.assertEqual(terminal.end(), 130)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
