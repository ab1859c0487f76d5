"""The page's own pieces of HTML. Whatever a user typed is escaped."""

from html import escape

from ahs_seg_jax.demo.answers import Answer, Row
from ahs_seg_jax.pictures import overlays


def header(title: str, about: str) -> str:
    """What the page is."""
    return f"<header><h1>{escape(title)}</h1><p>{escape(about)}</p></header>"


def message(answer: Answer) -> str:
    """The sentence above the pictures; a screen reader announces it."""
    kind = "mistake" if answer.failed else "done"
    text = escape(answer.message).replace("\n", "<br>")
    return f'<div class="message {kind}" role="status">{text}</div>'


def table(answer: Answer) -> str:
    """Legend and areas in one: colour, name, a bar of the share, pixels, mean confidence; then the names not found."""
    if answer.failed:
        return ""
    body = "".join(map(_row, answer.rows))
    head = "<th></th><th>name</th><th>share</th><th>pixels</th><th>confidence</th>"
    found = f'<table class="areas"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    if answer.absent:
        found += f'<p class="absent">Not found: {escape("; ".join(answer.absent))}</p>'
    return found


def _row(row: Row) -> str:
    color = f"rgb({row.color[0]},{row.color[1]},{row.color[2]})"
    bar = f'<span class="bar" style="width:{100 * row.share:.1f}%;background:{color}"></span>'
    return (
        f'<tr><td><span class="swatch" style="background:{color}"></span></td><th scope="row">{escape(row.name)}</th>'
        f'<td><div class="share"><span class="track">{bar}</span>{overlays.percent(100 * row.share)}</div></td>'
        f"<td>{row.pixels:,}</td><td>{overlays.percent(100 * row.confidence)}</td></tr>"
    )
