"""How nbconvert makes a page: with nothing from a network. Formulas become MathML, widgets their still pictures."""

from pathlib import Path

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.utils.base import NbConvertBase

WIDGETS = "application/vnd.jupyter.widget-view+json"


class Renderer(IPythonRenderer):
    def block_math(self, body: str) -> str:
        return mathml(body, as_block=True)

    def inline_math(self, body: str) -> str:
        return mathml(body)


def mathml(tex: str, as_block: bool = False) -> str:
    """A formula as MathML; as code, where docutils does not know a command."""
    try:
        return tex2mathml(tex, as_block)
    except MathError:
        return f"<code>{tex}</code>"


def markdown2html(source: str) -> str:
    return MarkdownWithMath(renderer=Renderer(escape=False)).render(source)


c = get_config()  # noqa: F821  nbconvert gives it
c.TemplateExporter.extra_template_basedirs = [str(Path(__file__).parent)]
c.TemplateExporter.template_name = "offline"
c.HTMLExporter.filters = {"markdown2html": markdown2html}
c.NbConvertBase.display_data_priority = [
    kind for kind in NbConvertBase.display_data_priority.default() if kind != WIDGETS
]
