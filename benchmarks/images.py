"""The README's images, small enough to be committed, from what the study and the registration have
drawn.

``python -m benchmarks.images``, as ``make figures`` runs it.
"""

from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent.parent / ".github" / "images"
WIDTH = 1200


def main() -> None:
    for name in ("study/study_gaussian_estimates.png", "registration_figure/registration.png"):
        path = Path("runs", name)
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
            small.save(FOLDER / f"{path.stem}.jpg", quality=85)


if __name__ == "__main__":
    main()
