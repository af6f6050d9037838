"""A commented job file to begin with."""

from pathlib import Path

from shared.errors import Conflict

_TEMPLATE = Path(__file__).parent / "templates" / "job.yaml"


def write_job_file(path: Path) -> None:
    """Write the starter file; raises `Conflict` where there is one already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise Conflict(f"{path} is there already.", remedy="Name another file, or move this one away.") from None
