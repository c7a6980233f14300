"""Pieces of HTML pages and of tables for the terminal."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd }
img { max-width: 100% }
"""


def document(title: str, heading: str, introduction: str, parts: Iterable[str]) -> str:
  """Returns an HTML page that loads nothing from elsewhere.

  Args:
    title: of the window.
    heading: text, which may hold any character.
    introduction: HTML.
    parts: HTML.
  """
  body = "\n".join(parts)
  return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>
<h1>{html.escape(heading)}</h1>
<p>{introduction}</p>
{body}
</html>
"""


def image(name: str, path: Path) -> str:
  """Returns the HTML of a PNG that is a part of the page itself."""
  data = base64.b64encode(path.read_bytes()).decode()
  return f'<img alt="{name}" src="data:image/png;base64,{data}">'


def table(rows: Iterable[Sequence[str]]) -> str:
  """Returns the HTML of a table, whose first row is its header; cells may hold any character."""
  first, *rest = rows

  def line(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

  return "\n".join(["<table>", line(first, "th"), *(line(row, "td") for row in rest), "</table>"])


def text(rows: Sequence[Sequence[str]]) -> str:
  """Returns the same table for a terminal."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
  return "\n".join(line.rstrip() for line in lines)
