"""The report as one HTML page that needs no other file, no script and no network."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from serving.training.report import tables
from serving.training.report.plots import Plot
from serving.training.report.tables import Table

if TYPE_CHECKING:
    from serving.training.report import Facts

# `Markup.format` escapes every value, so no name or text of a user becomes HTML.
_PAGE = Markup("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}: training report</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>{description}</header>
<section>{about}</section>
<section><h2>Metrics</h2>{metrics}</section>
<section><h2>Plots</h2><div class="plots">{plots}</div>{left_out}</section>
<section><h2>Columns</h2>{columns}
<p class="note">The typical value is the median or the most frequent value. Text is listed if the
column has at most 20 different ones, and only values of 5 rows or more.</p></section>
<section class="pair"><div><h2>Parameters</h2>{parameters}</div>
<div><h2>Libraries</h2>{libraries}</div></section>
</body>
</html>
""")

_STYLE = Markup("""
body { margin: 2rem auto; max-width: 68rem; padding: 0 1.5rem; color: #1a202c; background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; }
h2 { margin: 2rem 0 .6rem; font-size: 1.15rem; }
header p { margin: .2rem 0 1rem; color: #4a5568; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92em; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e2e8f0; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
thead th { color: #4a5568; font-weight: 600; }
tbody th { font-weight: 600; }
.facts tbody th { color: #4a5568; white-space: nowrap; }
.numbers td, .numbers thead th + th { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; break-inside: avoid; }
figure h3 { margin: 0 0 .3rem; font-size: 1rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption, .note { color: #4a5568; font-size: .9em; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; }
@media print {
  body { margin: 0; max-width: none; padding: 0; font-size: 11px; }
  .plots { grid-template-columns: 1fr 1fr; gap: 1rem; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
}
""")


def page(facts: "Facts", plots: Sequence[Plot], left_out: Sequence[str]) -> str:
    """The page.

    Args:
        facts: what is reported.
        plots: the pictures that could be made.
        left_out: a sentence about each other one.
    """
    described = tables.metadata(facts).get("description")
    return str(
        _PAGE.format(
            title=facts.recipe.name,
            style=_STYLE,
            description=Markup("<p>{}</p>").format(described) if described else "",
            about=_pairs(tables.about(facts)),
            metrics=_table(tables.metrics(facts.metrics), "numbers"),
            plots=_join(map(_figure, plots)),
            left_out=_join(Markup('<p class="note">{}</p>').format(one) for one in left_out),
            columns=_table(tables.columns(facts)),
            parameters=_pairs(tables.parameters(facts)) or "The defaults of the class.",
            libraries=_pairs(facts.provenance.libraries.items()),
        )
    )


def _figure(plot: Plot) -> Markup:
    names = "; ".join(f"{short} is {text}" for short, text in plot.names.items())
    return Markup(
        '<figure><h3>{}</h3><img alt="{}" src="data:image/png;base64,{}">'
        "<figcaption>{}</figcaption></figure>"
    ).format(
        plot.title,
        plot.title,
        b64encode(plot.png).decode("ascii"),
        f"{plot.explanation} {names}." if names else plot.explanation,
    )


def _table(table: Table, kind: str = "") -> Markup:
    heading = _join(Markup("<th>{}</th>").format(cell) for cell in table.heading)
    rows = _join(
        Markup("<tr><th>{}</th>{}</tr>").format(
            first, _join(Markup("<td>{}</td>").format(cell) for cell in rest)
        )
        for first, *rest in table.rows
    )
    return Markup(
        '<div class="scroll"><table class="{}"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(kind, heading, rows)


def _pairs(pairs: Iterable[tuple[str, str]]) -> Markup:
    """A table without a heading; empty if there are no pairs."""
    rows = _join(Markup("<tr><th>{}</th><td>{}</td></tr>").format(*pair) for pair in pairs)
    return Markup('<table class="facts"><tbody>{}</tbody></table>').format(rows) if rows else rows


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)
