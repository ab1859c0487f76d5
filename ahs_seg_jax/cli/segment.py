"""`ahs-seg segment`: its options; `segment_files.py` does the work."""

from typing import Annotated

import typer

from ahs_seg_jax.cli import options


def segment(
    images: options.Images,
    classes: options.Classes = "",
    classes_file: options.ClassesFile = None,
    model: options.Model = "tiny",
    activation: options.Activation = None,
    output: Annotated[str, typer.Option(help="Folder for the results; also gs:// or s3://.")] = "segmented",
    method: options.Method = "model",
    protocol: options.Protocol = "model",
    unknown: Annotated[
        str, typer.Option(help="none, a probability such as 0.3, or background words 'wall; sky'.")
    ] = "none",
    windows: Annotated[
        str, typer.Option(help="native: windows over each image at its own resolution, in place of a protocol.")
    ] = "",
    window: Annotated[int | None, typer.Option(help="Their side in pixels; the model's own by default.")] = None,
    stride: Annotated[int | None, typer.Option(help="Pixels from window to window.")] = None,
    overlap: Annotated[
        float | None, typer.Option(help="In place of a stride: a share, by default 0.33.", callback=options.finite)
    ] = None,
    blend: Annotated[str, typer.Option(help="Weights where they overlap: smooth, mean.")] = "smooth",
    global_view: Annotated[bool, typer.Option("--global-view", help="Mean with one view of the whole image.")] = False,
    keep: Annotated[
        str, typer.Option(help="Classes that each view keeps: model, auto (what it needs), all, a number.")
    ] = "model",
    memory_gb: options.MemoryGB = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would run and the memory it takes.")] = False,
    overlays: Annotated[bool, typer.Option(help="Write pictures with legends.")] = True,
    annotations: Annotated[
        str,
        typer.Option(
            help="Files for other tools: one or several of coco, coco-objects (connected parts), panoptic, yolo, "
            "geojson, gpkg, label-studio, cvat, cityscapes."
        ),
    ] = "",
    coco: Annotated[bool, typer.Option("--coco", help="As --annotations coco.")] = False,
    bands: Annotated[
        str, typer.Option(help="Red, green and blue of images with other bands: 3,2,1, or a TIFF's names.")
    ] = "",
    rescale: Annotated[
        str, typer.Option(help="Values that become black and white: 0,3000, or percentiles of each band, 2%,98%.")
    ] = "",
    snap: Annotated[
        str,
        typer.Option(help="Folder of masks to snap to, NAME.png, .npy, .json or .geojson for each image."),
    ] = "",
    every: Annotated[int, typer.Option(help="Of a film (.mp4, .mov, .mkv ...), every so many frames.")] = 1,
    smooth: Annotated[
        float, typer.Option(help="Of a film, the share of the frames before, 0 to 1.", callback=options.finite)
    ] = 0.0,
    first_index: Annotated[
        int, typer.Option(help="Number of the first class in files of labels; from 1 on, 0 is unlabelled.")
    ] = 0,
    heat_maps: Annotated[bool, typer.Option("--heat-maps", help="Write a picture of each name's probability.")] = False,
    dataset: Annotated[str, typer.Option(help="Make this folder a data set that configs/folder.py trains on.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in a folder with other results.")] = False,
    shard: Annotated[str, typer.Option(help="k/n: only the k-th of n parts of the images, chosen by name.")] = "1/1",
) -> None:
    """Segments images and films: labels, overlays and a summary. Run again, it continues where it stopped.

    With --windows native a TIFF may be larger than memory; its labels are a GeoTIFF with the same georeferencing.
    Images and results may lie in buckets. With --shard several processes fill one folder; the last writes the summary.
    """
    from ahs_seg_jax.cli.image_jobs import Shard
    from ahs_seg_jax.cli.result_formats import parse_annotations
    from ahs_seg_jax.cli.segment_files import run
    from ahs_seg_jax.cli.segment_settings import Settings, parse_keep, parse_windows
    from ahs_seg_jax.data.pixel_range import Rescale
    from ahs_seg_jax.segmenter.tiff_bands import parse_bands
    from ahs_seg_jax.segmenter.words import parse_unknown
    from ahs_seg_jax.storage import paths

    names = options.names(classes, classes_file)
    settings = options.mistakes(
        lambda: Settings(
            classes=names,
            model=model,
            method=options.method_or_none(method),
            activation=activation,
            protocol=options.protocol_or_none(protocol),
            windows=parse_windows(
                windows, window=window, stride=stride, overlap=overlap, blend=blend, global_view=global_view
            ),
            unknown=parse_unknown(unknown),
            keep=parse_keep(keep),
            memory_gb=memory_gb,
            first_index=first_index,
            bands=parse_bands(bands),
            snap=snap or None,
            every=every,
            smooth=smooth,
            rescale=Rescale.of(rescale or None),
        )
    )
    wanted = options.mistakes(lambda: parse_annotations(f"{annotations},coco" if coco else annotations))
    part = options.mistakes(lambda: Shard.parse(shard))
    options.finish(
        lambda: run(
            images,
            output,
            settings,
            only_plan=plan,
            overlays=overlays,
            annotations=wanted,
            heat_maps=heat_maps,
            again=overwrite,
            shard=part,
            dataset=paths.at_home(dataset) if dataset else None,
        )
    )
