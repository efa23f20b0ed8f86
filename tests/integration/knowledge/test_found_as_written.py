"""Documents as people write and save them: a question in their own words finds the passage that a reader sees."""

import pytest

from flotilla.contracts.errors import Invalid
from flotilla.knowledge import KnowledgeBase, UploadedDocument
from flotilla.postgres import Pool

TENANT = "acme"
_PICTURE = "data:image/png;base64," + "iVBOR" * 2000
DOCUMENTS: dict[str, bytes] = {
    "table.md": b"# Watch\n\n| Team | Keeper |\n|---|---|\n| Quay | Leocadia<br>Anselm<br/>Tomoko |\n",
    "lines.md": b"# Queue\n\nfirst Philomena<br>second Valentin\n",
    "accordion.html": b"<main><h1>Help</h1><h3><button aria-expanded=false>When does the ferry wait?</button></h3>"
    b"<div role=region hidden><p>It waits fourteen minutes.</p></div></main>",
    "aside.html": b"<main><h1>Kiln</h1><p>Close the door.</p><aside><p>The glaze is poisonous.</p></aside></main>",
    "shy.html": b"<main><h1>Urlaub</h1><p>Der Sonder&shy;urlaubs&shy;antrag geht im Juni.</p></main>",
    "zwsp.md": "# Settings\n\nSet the flag min\u200bIdle\u200bTime to twelve. The word data\u2060base too.\n".encode(),
    "decomposed.md": "# Plan\n\nJu\u0308rgen ba\u0308ckt Cre\u0300me caramel.\n".encode(),
    "composed.md": "# Wäsche\n\nSören bügelt am Dienstag.\n".encode(),
    "japanese.md": "# 交通費\n\n出張の交通費は一日五千円まで支給されます。\n".encode(),
    "chinese.md": "# 报销\n\n超过三百元的报销由部门主管批准。\n".encode(),
    "korean.md": "# 휴가\n\n휴가는 인사 담당자가 허락합니다.\n".encode(),
    "thai.md": "# ค่าเดินทาง\n\nผู้จัดการอนุมัติค่าเดินทางทุกเดือน\n".encode(),
    "german.md": "# Miete\n\nDie Zahlungsfristen der Büroräume betragen elf Tage.\n".encode(),
    "accents.md": "# Hiring\n\nSend your curriculum vitæ and résumé to Chloë Dupont.\n".encode(),
    "arabic.md": "# السفر\n\nيُوافِقُ المُشرِفُ على السفر.\n".encode(),  # noqa: RUF001 - Arabic
    "bom.md": b"\xef\xbb\xbf---\r\ntitle: Timetable\r\nsecret: plughferry\r\n---\r\n\r\nThe ferry leaves at six.\r\n",
    "empty-front.md": b"---\n---\n# Fire\n\nEverybody meets at the walnut tree.\n\n---\n\nThe footer.\n",
    "ruler.md": b"---\n\nThe spare key hangs behind the barometer.\n\n---\n\nThe rest.\n",
    "windows.txt": "Bar Olé öffnet um acht \N{EN DASH} täglich.".encode("cp1252"),
    "wrong-label.html": "<meta charset=iso-8859-1><p>It\u2019s € 75 \N{EN DASH} the café\u2019s “lodging rule”.".encode(
        "cp1252"
    ),
    "not-utf16.html": b"<meta http-equiv=Content-Type content='text/html; charset=utf-16'><p>Repaired by Ingeborg",
    "utf16.txt": "The generator is in hall nine.".encode("utf-16"),
    "sjis.html": "<meta charset=shift_jis><p>depot four 倉庫".encode("cp932"),
    "late.html": b"<!--" + b"x" * 1100 + b"--><meta charset=windows-1252><p>Die Kapelle: Schl\xfcssel beim K\xfcster.",
    "picture.html": f"<main><p>Sales:</p><img alt='Exports of quinces rose' src='{_PICTURE}'></main>".encode(),
    "picture.md": f"# Sales\n\n![Exports of medlars rose]({_PICTURE})\n".encode(),
    "two-articles.html": b"<h1>House</h1><p>Prams stay in the shed.</p><article><h2>More</h2><p>News.</p></article>",
    "shell.html": b"<body><main id=app></main><div class=content><p>The beacon is cleaned monthly.</p></div>",
    "code.md": b"```python\ndef backoff_policy(max_tries=3):\n    return max_tries\n```\n",
    "math.html": b"<main><p>Area:</p><math><mi>cubature</mi><mo>=</mo><mi>r</mi></math></main>",
    "footnote.md": b"# Fees\n\nThe fee is low.[^1]\n\n[^1]: Confirmed by the bursar in autumn.\n",
    "details.md": b"<details>\n<summary>Which port does the lock use?</summary>\n\nIt uses port 5822.\n\n</details>\n",
    "emoji.md": "# Mood\n\nThe crew is 🦩👩‍🚒 pelican glad.\n".encode(),
    "compact.html": b"<main><h2>Staff</h2><span>Edith</span><x-row>Joan</x-row><x-row>Karen</x-row></main>",
    "one-line.txt": b"word " * 40_000 + b"capstan",
    "one-word.txt": b"x" * 200_000 + b" windlass",
}


QUESTIONS = [
    ("table.md", "Anselm", "Anselm"),
    ("table.md", "Leocadia", "Leocadia"),
    ("lines.md", "Philomena", "Philomena"),
    ("accordion.html", "When does the ferry wait?", "fourteen"),
    ("aside.html", "poisonous", "poisonous"),
    ("shy.html", "Sonderurlaubsantrag", "Juni"),
    ("zwsp.md", "minIdleTime", "twelve"),
    ("zwsp.md", "database", "twelve"),
    ("decomposed.md", "Jürgen", "bäckt"),
    ("decomposed.md", "crème", "caramel"),
    ("composed.md", "So\u0308ren", "bügelt"),
    ("japanese.md", "交通費", "交通費"),
    ("japanese.md", "交通費はいくらまで支給されますか", "交通費"),
    ("chinese.md", "谁批准报销", "部门主管"),
    ("korean.md", "휴가", "허락"),
    ("korean.md", "인사 담당자", "허락"),
    ("thai.md", "ค่าเดินทาง", "ผู้จัดการ"),
    ("german.md", "Zahlungsfrist", "elf"),
    ("german.md", "Büroraum", "elf"),
    ("accents.md", "resume Chloe", "Dupont"),
    ("arabic.md", "المشرف", "السفر"),
    ("bom.md", "ferry leaves", "six"),
    ("empty-front.md", "walnut tree", "walnut"),
    ("ruler.md", "barometer key", "barometer"),
    ("windows.txt", "Bar Ole", "acht"),
    ("wrong-label.html", "lodging rule", "€ 75"),
    ("not-utf16.html", "repaired Ingeborg", "Ingeborg"),
    ("utf16.txt", "generator hall", "nine"),
    ("sjis.html", "depot four", "倉庫"),
    ("late.html", "Kapelle", "Schlüssel"),
    ("picture.html", "quinces", "quinces"),
    ("picture.md", "medlars", "medlars"),
    ("two-articles.html", "prams shed", "shed"),
    ("shell.html", "beacon cleaned", "beacon"),
    ("code.md", "backoff_policy", "max_tries"),
    ("math.html", "cubature", "cubature"),
    ("footnote.md", "bursar", "bursar"),
    ("details.md", "lock port", "lock"),
    ("details.md", "5822", "5822"),
    ("emoji.md", "pelican", "glad"),
    ("compact.html", "Karen", "Karen"),
    ("one-line.txt", "capstan", "capstan"),
    ("one-word.txt", "windlass", "windlass"),
]


async def test_every_document_is_found_by_what_it_says_and_by_nothing_else(pool: Pool) -> None:
    knowledge = KnowledgeBase(pool)
    for uri, content in DOCUMENTS.items():
        await knowledge.add(TENANT, UploadedDocument(uri=uri, content=content))
    missed = []
    for uri, question, word in QUESTIONS:
        found = await knowledge.search(TENANT, question, 3)
        if not any(one.source.uri == uri and word in one.text for one in found):
            missed.append((uri, question, [(one.source.uri, one.text[:80]) for one in found]))
    assert missed == []
    for unseen in ("plughferry", "iVBOR"):
        assert await knowledge.search(TENANT, unseen) == []


@pytest.mark.parametrize("content", [b"", b" \n", b"---\ntitle: Nothing else\n---\n", b"<!-- the code is 7 -->"])
async def test_what_has_no_text_is_refused(pool: Pool, content: bytes) -> None:
    with pytest.raises(Invalid):
        await KnowledgeBase(pool).add(
            TENANT, UploadedDocument(uri=f"a.{'html' if b'<' in content else 'md'}", content=content)
        )
