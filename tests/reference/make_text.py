"""Writes tests/data/text: cleaned prompts as the Wan reference makes them, and token ids.

Needs ftfy, regex and sentencepiece: python tests/reference/make_text.py
"""
import html
import json
import pathlib

import ftfy
import regex
import sentencepiece

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"

PROMPTS = [
    "", " ", "a", "  a  red \t ball\r\n\r\nrolls\n", "A red ball rolls across a wooden table while a cat watches.",
    "色调艳丽，过曝，静态，细节模糊不清", "“curly” ‘quotes’ it’s „low“ ‛x‟", "ﬁne ﬂour, oﬃce, waﬄe, ﬅ ﬆ, Ĳssel ŉ ǅ ǆ Ǌ",
    "ＬＯＵＤ　ＮＯＩＳＥＳ！ ￥１００ ￣ ￦ ｶﾞﾊﾟ ﾡﾢ", "cafe\u0301 A\u030a o\u0302\u0323 q\u0307\u0323 \u1112\u1161\u11ab \u212b \u2126",
    "red\x1b[31;1m text\x1b[0m \x1b[?25h \x1b", "\ufeffbyte order mark, \x01control\x7f \u206a\ufff9\ufffc \u200bzero \u200d width",
    "dots\x85 quote\x91\x92 \x93x\x94 euro\x80 undefined\x81\x8d end",
    "line\u2028separator\u2029paragraph\x0bvertical\x0cform\rfeed",
    "nbsp\u00a0thin\u2009ideographic\u3000ogham\u1680medium\u205fnarrow\u202fend",
    "&amp; &lt;b&gt; &quot;x&quot; &#39;y&#39; &copy; &nbsp;&hellip;", "&amp;amp;lt; &amp;lt; &amp;amp;amp;amp;lt;",
    "<b>&amp;amp;lt;</b> &eacute; &NTILDE;", "first &NTILDE;\n<i>\n&NTILDE; &ntilde;", "P&EACUTE;REZ BUNDESSTRA&SZLIG;E &CHECKMARK; &COPYSR; &nTILDE;",
    "&ampx &notit; &notin; &not &copyright &hearts &ndash;&NewLine;&Tab;x", "&AMP &AMP; &fjlig; &ffllig; &CounterClockwiseContourIntegral;",
    "&#x41;&#65;&#065 &#x1F600; &#128512 &#0; &#x80;&#150; &#xD800; &#x110000; &#1;&#xFFFE; &#13;&#59;&#38;lt;",
    "&#1;&#xFFFE;", "\x01", "&#99999999999999999999; &#; &#x; &#xg; & && &; &a; &noSuchThing; tail &", "tags \U000e0067\U000e007f 👩‍👩‍👧 🏴 🎉", "½ ² µ Å ﷺ ①",
]
TOKENIZED = [
    "A red ball rolls across a wooden table while a cat watches.", "blurry, low quality, 静态", "", "a", "  two  blanks ",
    "🎉 party", "Ünïcödé wörds", "½ cup", "日本語のテスト", "x" * 40, "the cat sat on the mat " * 6,
]


def clean(text):
    text = ftfy.fix_text(text)
    text = html.unescape(html.unescape(text)).strip()
    return regex.sub(r"\s+", " ", text).strip()


folder = DATA / "text"
folder.mkdir(parents=True, exist_ok=True)
processor = sentencepiece.SentencePieceProcessor(str(DATA / "tokenizer" / "wan" / "spiece.model"))
tokens = [{"text": text, "ids": processor.encode(text) + [processor.eos_id()]} for text in TOKENIZED]
(folder / "clean.json").write_text(json.dumps([{"in": text, "out": clean(text)} for text in PROMPTS], indent=0))
(folder / "tokens.json").write_text(json.dumps(tokens))
