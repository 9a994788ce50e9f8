"""A preview as one HTML page that needs nothing else: no script, no font, no picture, light or dark as the reader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from fastft.data.preview import Fragment, Section, Shown, fragments

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1c1c; --dim: #767676; --line: #d8d8d8;
  --learned: #0b6b2e; --learned-back: #e3f6e8; --mark: #8a5a00; --id: #0a5a8c; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e8e8e8; --dim: #8f949a; --line: #3a3d42;
  --learned: #8fe3a8; --learned-back: #163522; --mark: #e0b050; --id: #7fc4ee; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 0; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 0.95rem; margin: 1rem 0 0; font-weight: 600; }
p { margin: 0.3rem 0; } .note { color: var(--mark); }
pre { font: 13px/1.6 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.5rem 0;
  padding: 0.7rem; border: 1px solid var(--line); border-radius: 4px; color: var(--dim); unicode-bidi: plaintext; }
.learned { color: var(--learned); background: var(--learned-back); font-weight: 600; }
.special { outline: 1px solid currentColor; outline-offset: -1px; border-radius: 2px; }
.mark { color: var(--mark); } .id { color: var(--id); font-size: 0.75em; font-weight: 400; }
""".strip()


def page(title: str, facts: Iterable[str], sections: Iterable[Section], *, ids: bool = False) -> str:
    """The whole page. Everything that comes from data is escaped."""
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(fact)}</p>" for fact in facts)]
    for section in sections:
        body += _section(section, ids=ids)
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}\n</style></head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _section(section: Section, *, ids: bool) -> list[str]:
    lines = [f"<h2>{escape(section.heading)}</h2>", *_notes(section.notes)]
    for shown in section.shown:
        lines += _shown(shown, ids=ids)
    if section.source:
        lines.append(f"<pre>{escape(section.source)}</pre>")
    return lines


def _shown(shown: Shown, *, ids: bool) -> list[str]:
    drawn = "".join(_fragment(fragment) for fragment in fragments(shown.pieces, ids=ids))
    # A newline directly after <pre> is dropped by HTML, so one is put there for it to drop.
    return [f"<h3>{escape(shown.heading)}</h3>", *_notes(shown.notes), f"<pre>\n{drawn}</pre>"]


def _fragment(fragment: Fragment) -> str:
    classes = [*(["learned"] if fragment.learned else []), *([fragment.kind] if fragment.kind != "text" else [])]
    text = escape(fragment.text).replace("\r", "&#13;")
    return f'<span class="{" ".join(classes)}">{text}</span>' if classes else text


def _notes(notes: Sequence[str]) -> list[str]:
    return [f'<p class="note">{escape(note)}</p>' for note in notes]
