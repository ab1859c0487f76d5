"""`ahs-seg evaluate`: a checkpoint, or the run of a configuration, is scored; `evaluate_model.py` does the former."""

from typing import Annotated, Literal

import typer

from ahs_seg_jax.cli import options
from ahs_seg_jax.cli.train import hand_over


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Option(help=options.CHECKPOINTS.capitalize())] = "",
    activation: options.Activation = None,
    benchmark: Annotated[
        list[str] | None, typer.Option(help="A prepared benchmark, such as voc_21; may be given several times.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="A training-free method, such as naclip; by default what the checkpoint holds.")
    ] = "",
    refine: Annotated[
        str, typer.Option(help="Of a training-free method: published, none, pamr, propagation.")
    ] = "published",
    root: Annotated[str, typer.Option(help="Folder of the prepared data; else $AHS_SEG_DATA.")] = "",
    workdir: Annotated[str, typer.Option(help="Folder that gets results/; by default runs/<model>.")] = "",
    class_names: Annotated[
        str, typer.Option(help="Your own class names, one class a line, or a folder of <benchmark>.txt.")
    ] = "",
    protocol: options.Protocol = "model",
    expected: Annotated[str, typer.Option(help="What its scores are compared with, such as naclip_vitb16.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="A fixed subset of 100 images.")] = False,
    limit: Annotated[int, typer.Option(help="The first images of each benchmark; 0: all.", min=0)] = 0,
    save_predictions: Annotated[Literal["", "png", "coco"], typer.Option(help="Keep the labels: png, coco.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Also where there are results already.")] = False,
    allow_bad_data: Annotated[bool, typer.Option("--allow-bad-data", help="Score what the doctor refuses.")] = False,
) -> None:
    """Scores a model: --model NAME --benchmark NAME.

    Or a run of a configuration: --config=FILE --workdir=FOLDER; then the flags are those of train, and the fields of
    --config.eval choose what is scored.

    Prepare benchmarks by `ahs-seg data prepare`. A training-free method runs with its published settings of each
    benchmark; scores are comparable with published ones with the class names of the published program (--class-names).
    """
    if not model:
        if of_a_model := options.given(context, "workdir"):
            fields = "a configuration has fields for that, such as --config.eval.benchmarks"
            raise typer.BadParameter(f"{of_a_model} needs --model; {fields}")
        hand_over("eval", [*context.args, *([f"--workdir={workdir}"] if workdir else [])])
        return
    if context.args:
        raise typer.BadParameter(f"with --model there is no {context.args[0]}")
    from ahs_seg_jax.cli import evaluate_model
    from ahs_seg_jax.config import EvalConfig

    settings = EvalConfig(
        benchmarks=tuple(dict.fromkeys(benchmark or ())),
        class_names=class_names,
        expected=expected,
        quick=quick,
        limit=limit,
        save_predictions=save_predictions,
        again=again,
        allow_bad_data=allow_bad_data,
    )
    chosen = evaluate_model.Chosen(model, method, refine, options.protocol_or_none(protocol), activation)
    options.finish(lambda: evaluate_model.run(chosen, settings, root, workdir))
