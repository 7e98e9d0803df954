"""What a request asks for, freed of politeness: the scene to draw, the change to make.

Pure text in and out, by rule; knows English and nothing of tools, artifacts or models.
"""

from __future__ import annotations

import re

_FILE = re.compile(r"[a-z]+/[0-9a-f]{8}\.[a-z0-9]{1,5}")
_FRONT = re.compile(
    r"^(?:(?:hi|hey|hello|please|kindly|now|then|also|next|first|finally|ok|okay|so)\b[,!.:]?\s+"
    r"|would you mind(?: helping me)?[?.,]\s*|for (?:the|my|a) \w+, "
    r"|for (?:the|my|our|a) (?:\w+ ){1,3}(?=(?:i|we) (?:want|need|would|thought|imagine|had)\b)"
    r"|(?:can|could|would|will) you (?:please |kindly )?(?=\w)|can i ask you to |may i ask you to "
    r"|(?:i want|i need|i'd like|i would like|i'd love|i wish|my \w+ wants?|i am asking) "
    r"(?:you (?:to|would) |me to )"
    r"|(?:do me a favou?r|be so kind) (?:and |as to )|help me (?:to )?|try to |you should "
    r"|it would be (?:\w+ )?(?:great|nice|good|kind|lovely) if you could "
    r"|(?:is it|would it be) possible to |any chance (?:you could|to) |i was hoping you could "
    r"|quick one: |how about this: |let's |let us "
    r"|do you think you could )",
    re.IGNORECASE,
)
_BACK = re.compile(
    r"(?:[\s,]+(?:please|pls|thanks|thank you|for me|if you can|now"
    r"|(?:will|would|could|can|won't|wouldn't|can't|couldn't) you))$",
    re.IGNORECASE,
)
_DO = (
    "generate|draw|create|make|paint|produce|show|render|imagine|design|give|sketch|depict|"
    "illustrate|visuali[sz]e|compose|build|invent|picture|dream up|conjure up|think up|come up with|"
    "whip up|put together|invent|sketch up|bring|do|get|compose|dream|conjure|think|cook up"
)
_VERB = re.compile(
    rf"^(?:(?:(?:dream|conjure|think|whip|cook|make)\s+(?:me|us)\s+up|surprise (?:me|us) with|treat (?:me|us) to"
    rf"|let there be|(?:to )?(?:{_DO})(?:\s+up)?\s+(?:(?:and|or)\s+(?:{_DO})\s+)?(?:me\b|us\b)?)\s*)(?=\S)",
    re.IGNORECASE,
)
_WANT = re.compile(
    r"^(?:(?:i(?: really| just| also)?|we|she|he|they) "
    r"(?:wants?|needs?|wish(?:es)? for|imagine|picture|fancy|(?:thought|think|was thinking|had thought) of|am after|(?:can )?see before me)"
    r"(?: to (?:see|have))?:?"
    r"|(?:i'd|we'd|i would|we would|would) (?:really )?(?:like|love|give anything for)(?: to (?:see|have))?"
    r"|i(?:'m| am|'ve been| have been) (?:dreaming|thinking|looking|longing) (?:of|for|about)"
    r"|(?:have you )?ever seen|let (?:me|us) (?:see|have)|(?:can|could|may) (?:i|we) (?:see|have|get)"
    r"|(?:something|anything) (?:with|of|showing|like|about)"
    r"|fill (?:this|that|the|my|our) (?:[\w'-]+ ){0,2}(?:page|canvas|sheet|wall|screen|frame) with"
    r"|how about|what about|give me|get me|show me (?:how|what)|(?:what|how) (?:would|might|could|does|will)"
    r"|what(?=.*\blook\b)|there (?:is|was|should be|must be)"
    r"|(?:the|my|our|this|tonight's) (?:[\w'-]+ ){1,3}(?:needs|wants|could do with|is about|has|calls for"
    r"|begins with|starts with)"
    r"|(?:the|my) \w+ (?:needs|wants))\s+",
    re.IGNORECASE,
)
_PICTURE = re.compile(
    r"\b(?:image|picture|photo|drawing|painting|sketch|icon|illustration|artwork|cartoon|portrait|"
    r"poster|watercolou?r)\b:?",
    re.IGNORECASE,
)
_ONLY_A = re.compile(r"(?:(?:an?|the|some|another)\s+)?(?:(?!\w+ing\b)\w+\s+){0,2}", re.IGNORECASE)
_OF = re.compile(
    r"^(?:of|showing|that shows|which shows|with|depicting|about|saying)\s+(.+)$", re.IGNORECASE
)
_ANYWHERE = re.compile(
    r"\b(?:an?|the|some) (?:\w+ ){0,2}?(?:picture|image|photo|drawing|painting|illustration|icon|portrait|"
    r"poster) (?:of|showing|with)\s+(.+)$",
    re.IGNORECASE,
)
# What follows is a remark on the wish, not part of it.
_REMARK = re.compile(
    r",?\s+(?:and|but|so|as|because|since)\s+(?:the|my|our|i|i've|i'm|we|it|it's|that|there|she|he|they"
    r"|nobody|no)\b(?:.*\b(?:is|are|was|have|has|need|needs|want|wants|can't|don't|empty|missing)\b.*)$"
    r"|,\s+(?:if (?:you|possible|it)\b.*|go|maybe|please.*|painted|drawn|you know)$"
    r"|\s+for (?:me|us|my|our|the|her|his) (?:[\w'-]+\s?){0,3}$",
    re.IGNORECASE,
)
_BACKWARD = re.compile(
    r"^(?:it|that|this|him|her|them|one|something|me)\b|\b(?:it|that|this|him|her|them)$",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.?!;])\s+(?=\w)")

_GUIDE = (
    r"(?:canny|edges?|lines?|line|hed|boundar(?:y|ies)|outlines?|pose|posture|skeleton|stick figure|"
    r"normals?|surfaces?|segment(?:s|ation)?|regions?|areas?|depth|sketch|scribble|strokes|contours?|"
    r"map|label map|plan|doodle|drawing)"
)
_GUIDED_TAIL = re.compile(
    r",?\s+(?:from|along|based (?:up)?on|following|guided by|using|on the basis of|over|upon|after|in|"
    r"with|on|out of|to match|fitting|within|by|that (?:follows|keeps|takes up|fits|matches|uses)|"
    r"laid out like|shaped like|standing as in|(?:just )?(?:as|like) in|be made (?:out of|from)|"
    r"be built|grow out of|stand the way)\s+"
    rf"(?:(?!(?:in|on|by|at|from|with|of|over|under|along|upon|among)\b)[\w']+\s+){{0,4}}?{_GUIDE}\b.*$"
    r"|\s+(?:with|of|from) (?:them|it)$|\s+(?:in )?this (?:pose|posture)$",
    re.IGNORECASE,
)
_INTO = re.compile(
    r"\b(?:should|shall|must|could|may|can|to|let)\b.*?\b"
    r"(?:become|turn(?:ed)? into|show|be that of|be(?=\s+(?:an?|the|some)\b))\s+(.+)$"
    r"|\b(?:become|turn(?:ed)? into|that they show|and show|so that they show)\s+(.+)$",
    re.IGNORECASE,
)
_BY_GUIDE = re.compile(
    rf"^(?:use|take|with|keep|respect|stick to|follow|from|on|start from|given)\b.*?\b(?:to|and|i want|"
    rf"i'd like|i would like|please,?|make)\s+(?:(?:{_DO})\s+(?:me\s+)?)?(?:please,?\s+)?(.+)$",
    re.IGNORECASE,
)
_ON = re.compile(
    r"^(?:with|take|use|work on|edit|change|alter|modify|adapt|restyle|transform)\s+"
    r"(?:[\w']+\s+){0,4}?(?:[\w']+,\s+)?(?:and|so that|so as to|such that|please)\s+(.+)$",
    re.IGNORECASE,
)
_ABOUT_IT = re.compile(
    r"\s+(?:in|for|of|on)\s+(?:it|this|that|the|my|this)\s?(?:image|picture|photo|photograph|file|pic|"
    r"shot|one)?$",
    re.IGNORECASE,
)


def plain(piece: str) -> str:
    """A piece of a request without greeting, politeness and closing marks."""
    text = " ".join(piece.split()).strip(" .!?,;")
    before = ""
    while text != before:
        before = text
        text = _BACK.sub("", _FRONT.sub("", text)).strip(" .!?,;")
    return text or piece.strip()


def wish(piece: str) -> str:
    """What a request to make something asks for: "draw a picture of a red cat" -> "a red cat".

    Of several sentences the one is taken that asks; where that only points back ("Draw it."), what
    the one before it tells of.
    """
    sentences = [s for s in _SENTENCE.split(piece.strip()) if re.search(r"\w", s)] or [piece]
    found = [_wish(s) for s in sentences]
    told = [(w, freed) for w, freed in found if not _BACKWARD.search(w)]
    if any(" " in w for w, _ in told):  # "Art, please! A fox playing the cello."
        told = [(w, freed) for w, freed in told if " " in w]
    asking = [w for w, freed in told if freed]
    return (asking or [w for w, _ in told] or [w for w, _ in found])[-1 if asking else 0]


def _wish(sentence: str) -> tuple[str, bool]:
    """What one sentence asks for, and whether it had words of asking."""
    text = before = plain(sentence)
    if _lead(text):
        text = text.partition(":")[2].strip()
    text = _VERB.sub("", _WANT.sub("", text), count=1)
    text = re.sub(r"^what (?=an?\b|the\b)", "", text, flags=re.IGNORECASE)
    named = _PICTURE.search(text)
    anywhere = _ANYWHERE.search(text)
    if named and _ONLY_A.fullmatch(text[: named.start()]):
        rest = text[named.end() :].strip(" ,:")
        told = _OF.match(rest)
        if told:
            text = told.group(1)
        elif rest and not re.match(r"an?\b", rest):  # "a man painting a dog" is one scene
            text = rest
    elif anywhere:
        text = anywhere.group(1)
    freed = text != before
    text = (_REMARK.sub("", text) or text).strip(" .!?,")
    return text or sentence.strip(" .!?,") or sentence, freed


def guided_wish(piece: str) -> str:
    """What is to be made along a given map: "Use the edges a.png to draw a fox" -> "a fox"."""
    text = plain(re.split(r"[.?!]\s+(?=\w)", plain(_FILE.sub("", piece)))[-1])
    if _lead(text):
        return wish(text.partition(":")[2])
    by_guide = _BY_GUIDE.match(text)
    into = _INTO.search(text)
    if by_guide:
        text = by_guide.group(1)
    elif into:
        text = into.group(1) or into.group(2)
    else:
        text = re.sub(r"^(?:could|can|let)\s+(?=an?\b|the\b)", "", text, flags=re.IGNORECASE)
    text = wish(text)
    return _GUIDED_TAIL.sub("", text).strip(" .!?,") or text


def change(piece: str) -> str:
    """The change that a request wants of a picture: "take it and make it winter" -> "make it winter"."""
    text = plain(_FILE.sub("it", piece))
    if _lead(text):
        text = text.partition(":")[2]
    elif found := _ON.match(text):
        text = found.group(1)
    text = plain(text)
    return _ABOUT_IT.sub("", text) or text


def _lead(text: str) -> bool:
    """Whether a colon parts what is wanted from an introduction."""
    before, colon, after = text.partition(":")
    return (
        bool(colon)
        and after.startswith(" ")
        and len(after.split()) > 1
        and len(before.split()) < 14
    )
