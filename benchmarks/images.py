"""The images of the README and the site, small enough to be committed, from what the study and the
registration have drawn.

``python -m benchmarks.images``, as ``make figures`` runs it.
"""

from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent.parent / ".github" / "images"
# Wide enough for the text of a figure, whose points are drawn at 120 or more to the inch.
WIDTH = 1400
COLOURS = 128
FIGURES = (
    "study/study_gaussian_estimates.png",
    "study/study_gaussian_relative_error.png",
    "registration_figure/registration.png",
)


def main() -> None:
    for name in FIGURES:
        path = Path("runs", name)
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
            few = small.quantize(COLOURS, dither=Image.Dither.NONE)
            few.save(FOLDER / path.name, optimize=True, dpi=(110, 110))


if __name__ == "__main__":
    main()
