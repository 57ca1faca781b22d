"""Preview videos during training, of the same images and noise each time."""

from pathlib import Path

from svd.data.images import find_images, load_image, prepare_image
from svd.data.videos import write_video
from svd.pipelines.image_to_video import ImageToVideo


class Preview:
    """Makes a video of each image with the pipeline's current weights.

    Args:
        pipe: the pipeline, which may share its networks with a training.
        images: files, or folders of them.
        folder: to write to; created if needed.
        suffix: gif or mp4.
        sampling: arguments of the pipeline.

    Raises:
        ImageError: an image cannot be used.
    """

    def __init__(self, pipe: ImageToVideo, images: list[str], folder: Path, suffix: str, sampling: dict):
        self.pipe, self.folder, self.suffix, self.sampling = pipe, folder, suffix, sampling
        sizes = {name: sampling[name] for name in ("height", "width") if name in sampling}
        settings = pipe.settings(**sizes)
        size = (settings.height, settings.width)  # resized at once: photographs are large
        self.images = {path.stem: prepare_image(load_image(path), *size) for path in find_images(images)}

    def __call__(self, name: str) -> list[Path]:
        """Write folder/NAME_IMAGE.suffix for each image; returns the paths."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for stem, image in self.images.items():
            path = self.folder / f"{name}_{stem}.{self.suffix}"
            write_video(path, self.pipe(image, progress=False, **self.sampling), self.pipe.config.sampling.fps)
            paths.append(path)
        return paths
