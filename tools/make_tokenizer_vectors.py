#!/usr/bin/env python3
"""Writes tests/data/tokenizers/: small BPE vocabularies with the exact split
patterns and normalizers of the families in use, and the ids that the tokenizers
library gives for hard texts and random Unicode.

Needs: tokenizers==0.23.3
"""
import json
import pathlib
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog while the other dogs are sleeping in the garden.",
    "We're sure that they'll come, she's said it, and I'd have thought you've known: it isn't far.",
    "In 1984 there were 12345 houses; in 2024 about 67890. The rate rose from 3.14% to 27.5%.",
    "for (int i = 0; i < count; ++i) { total += values[i] * weights[i]; }  // sum\n\treturn total;\n",
    "def forward(self, hidden_states):\n    residual = hidden_states\n    return self.norm(residual)\n\n",
    "Быстрая коричневая лиса прыгает через ленивую собаку, а другие собаки спят в саду.",
    "Der schnelle braune Fuchs springt über den faulen Hund; größere Füße mögen süße Äpfel.",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au-delà des îles.",
    "敏捷的棕色狐狸跳过了懒狗,而其他的狗正在花园里睡觉。今天天气很好。",
    "素早い茶色の狐がのろまな犬を飛び越える。カタカナとひらがなの文章です。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다. 오늘은 날씨가 좋습니다.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول في الحديقة اليوم.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "😀 😃 🚀 👩‍👩‍👧‍👦 🇩🇪 ✅ 😶‍🌫️ smile and rocket",
    "<html><body class=\"main\">{'key': [1, 2, 3], \"other\": null}</body></html>\r\n\r\n",
]

HARD = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\t\n \r\n", "a", " a", "a ", "  a  b   c    ",
    "Hello, world!", "HELLO WORLD'S IT'LL WE'VE I'M you'D", "it’s", "'s 'T 'Re", "''''", "don't  can't\nwon't",
    "1", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000", "x1y22z333", "٠١٢٣", "½ ¼ ²³ Ⅷ ①",
    "a" * 300, "ab" * 200, " " * 300, "\n" * 70, "=" * 100, "é" * 100, "😀" * 60, "a" * 47, "a" * 48, "a" * 49, "a" * 50,
    "e\u0301 o\u0308 A\u030a", "\u1e9b\u0323", "Å Å Å", "\u0958\u0915\u093c", "가 \u1100\u1161", "ﬁ ﬂ № ™",
    "\u200b\u200d\ufeff\u00ad", "\u00a0\u2003\u3000 \u2028\u2029\u0085x", "a\u180eb \u180e", "\x00\x01\x7f", "tab\tsep\tx",
    "مرحبا بالعالم", "שלום עולם", "Привет, мир!", "नमस्ते दुनिया", "สวัสดีชาวโลก", "こんにちは世界", "안녕하세요 세계", "你好,世界!",
    "ქართული", "አማርኛ", "កាន់តែពិសេស", "ᚠᛇᚻ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛", "𠜎𠜱", "👩‍👩‍👧‍👦🇩🇪🏳️‍🌈", "Z̵͓̈́a̸͔͝l̶̰̈́g̷̦̀o̴̫͝",
    "if (x < 10) {\n\t\treturn x->y[0];\n}\n", "SELECT * FROM t WHERE a = 'b''c';", "\\n\\t\\\\", "C:\\path\\file.txt",
    "https://example.com/a?b=c&d=%20#e", "name@example.org", "#include <vector>", "a+b-c*d/e%f^g&h|i~j`k",
    "<|im_start|>user\nhi<|im_end|>", "<|im_start|><|im_start|>", "a<|endoftext|>b", "<|im_start", "<<|im_end|>>",
    " <|endoftext|> x", "foo[MASK]bar", "foo [MASK] bar", "  [MASK]  ", "x<sep> y", "word <word> words <word>s", "<word>",
    "mixed 漢字 and English 123 words, ещё слова; и 45 6.", "CamelCaseAndsnake_case and kebab-case", "...!!!???", "“quotes” ‘single’ —dash–",
]
BROKEN = [b"\xff", b"abc\x80def", b"\xc3", b"\xe2\x82", b"\xe2\x82A", b"\xf0\x9f\x98", b"\xf0\x9f\x98\xe2\x82\xac", b"\xed\xa0\x80x",
          b"\xc0\xafz", b"\xf8\x88\x80\x80\x80", b"ok \xfe\xff ok", b"\xf4\x90\x80\x80"]

GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
             r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def level(use_regex=False, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


FAMILIES = {
    "gpt2": dict(pre=level(True)),
    "gpt2-prefix": dict(pre=level(True, True)),
    "llama3": dict(pre=pre_tokenizers.Sequence([split(LLAMA3), level()]), ignore_merges=True, bos=True),
    "qwen2": dict(pre=pre_tokenizers.Sequence([split(QWEN2), level()]), norm=normalizers.NFC()),
    "glm4": dict(pre=pre_tokenizers.Sequence([split(LLAMA3), level()])),
    "deepseek3": dict(pre=pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), level()]), bos=True),
    "smollm": dict(pre=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(True)])),
    "sentencepiece": dict(norm=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), spm=True, bos=True),
    "metaspace": dict(pre=pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first"), spm=True),
}


def build(name, family):
    spm = family.get("spm", False)
    model = models.BPE(ignore_merges=family.get("ignore_merges", False), byte_fallback=spm, unk_token="<unk>" if spm else None, fuse_unk=spm)
    tokenizer = Tokenizer(model)
    if "norm" in family:
        tokenizer.normalizer = family["norm"]
    if "pre" in family:
        tokenizer.pre_tokenizer = family["pre"]
    specials = ["<unk>", "<s>", "</s>"] if spm else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if spm:
        specials += [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1400, special_tokens=specials, show_progress=False, limit_alphabet=400,
                                  initial_alphabet=[] if spm else sorted(pre_tokenizers.ByteLevel.alphabet()), max_token_length=24)
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    data = json.loads(tokenizer.to_str())
    if spm:  # byte tokens are ordinary tokens of the vocabulary
        data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
        if name == "metaspace":
            data["decoder"] = json.loads(Tokenizer_decoder(decoders.Metaspace(replacement="▁", prepend_scheme="first")))
        else:
            data["decoder"] = json.loads(Tokenizer_decoder(decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])))
    else:
        data["decoder"] = json.loads(Tokenizer_decoder(decoders.ByteLevel()))
    if name in ("llama3", "gpt2"):  # the older spelling of merges
        data["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m for m in data["model"]["merges"]]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_tokens([AddedToken("[MASK]", lstrip=True, normalized=False), AddedToken("<sep>", rstrip=True, normalized=False),
                          AddedToken("<word>", single_word=True, normalized=False), AddedToken("Åre", normalized=True)])
    if family.get("bos"):
        token = "<s>" if spm else "<|endoftext|>"
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B",
                                                                 special_tokens=[(token, tokenizer.token_to_id(token))])
    return tokenizer


def Tokenizer_decoder(decoder):
    probe = Tokenizer(models.BPE())
    probe.decoder = decoder
    return json.dumps(json.loads(probe.to_str())["decoder"])


def random_texts(count):
    rng = random.Random(11)
    ranges = [(0x20, 0x7F), (0xA0, 0x24F), (0x250, 0x3FF), (0x400, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF),
              (0x2000, 0x206F), (0x2070, 0x23FF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF)]
    for _ in range(count):
        text = ""
        while len(text) < rng.randint(1, 40):
            low, high = rng.choice(ranges) if rng.random() < 0.9 else (0, 0x10FFFF)
            for _ in range(rng.randint(1, 6)):
                char = chr(rng.randint(low, high))
                # Only characters that every Unicode version in use agrees on.
                if unicodedata.category(char) not in ("Cn", "Cs", "Co"):
                    text += char
            if rng.random() < 0.4:
                text += rng.choice([" ", "  ", "\n", "\t", "'s", "12", "."])
        yield text


folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/tokenizers")
for name, family in FAMILIES.items():
    tokenizer = build(name, family)
    (folder / f"{name}.json").write_text(tokenizer.to_str(), encoding="utf-8")
    vectors = []
    texts = [(t.encode(), t) for t in HARD + CORPUS + list(random_texts(150))] + [(b, b.decode("utf-8", "replace")) for b in BROKEN]
    for raw, text in texts:
        ids = tokenizer.encode(text).ids
        vectors.append({"hex": raw.hex(), "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    with open(folder / f"{name}.vectors.json", "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in vectors) + "\n]\n")
