"""A report as one file to keep: the page, its figures, and the facts that both were made from."""

import io
import zipfile

from services.rollout.report.facts import JobReport
from services.rollout.report.figures import draw_figures
from services.rollout.report.markdown import write_markdown
from services.rollout.report.svg import draw_svg


def bundle_report(report: JobReport, url: str) -> bytes:
    """A zip of `report.md`, `report.json` and `figures/`; `url` is where the service is reached."""
    figures = draw_figures(report)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("report.md", write_markdown(report, figures, url))
        archive.writestr("report.json", report.model_dump_json(by_alias=True, indent=1))
        for figure in figures:
            archive.writestr(figure.file, draw_svg(figure.chart, figure.sources))
    return packed.getvalue()
