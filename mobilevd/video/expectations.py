"""What must hold of the clips before anything learns from them, checked and shown by Great Expectations.

**Keeps** a clip that breaks an expectation is named, and stops the run (``tests/video/test_expectations.py``).
"""

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mobilevd.errors import DataError
from mobilevd.settings import Clip, Prepare
from mobilevd.video.split import scenes

if TYPE_CHECKING:
    import pyarrow

SUITE = "clips"
AT_MOST_NAMED = 10


def validate(clips: "pyarrow.Table", clip: Clip, prepare: Prepare, docs: Path) -> Path:
    """Check every row and build the Data Docs site under ``docs``; returns its first page.

    Errors: DataError with one entry per broken expectation and the clips that break it; the page is there all the same.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations as gx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        _site(context, Path(docs).resolve())
        result = _checkpoint(gx, context, _expectations(gx.expectations, clip, prepare)).run(
            batch_parameters={"dataframe": _frame(clips, prepare)}
        )
        context.build_data_docs()
    page = Path(docs).resolve() / "index.html"
    if not result.success:
        raise _failure(result, page)
    return page


_FORMAT = {"result_format": "COMPLETE", "unexpected_index_column_names": ["clip_id"]}


def _expectations(gxe, clip: Clip, prepare: Prepare) -> list:
    duration_s = clip.frames / clip.fps
    every = {"frames": clip.frames, "fps": clip.fps, "width": clip.width, "height": clip.height}
    sized = [gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[value]) for name, value in every.items()]
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=prepare.min_train_clips + prepare.min_validation_clips),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="split", value_set=["train", "validation"]),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="clips_in_split", column_B="needed", or_equal=True),
        *sized,
        gxe.ExpectColumnValuesToBeBetween(
            column="duration_s", min_value=duration_s - 1e-6, max_value=duration_s + 1e-6
        ),
        gxe.ExpectColumnValuesToBeBetween(column="start_s", min_value=0.0),
        gxe.ExpectColumnValuesToBeBetween(
            column="motion", min_value=prepare.min_motion, strict_min=True, max_value=1.0
        ),
        gxe.ExpectColumnValuesToBeUnique(column="clip_id"),
        gxe.ExpectColumnValuesToBeUnique(column="pixels_sha256"),
        gxe.ExpectColumnValuesToBeInSet(column="sides_of_scene", value_set=[1]),
        gxe.ExpectColumnValuesToBeInSet(column="sides_of_bytes", value_set=[1]),
    ]


def _frame(clips: "pyarrow.Table", prepare: Prepare):
    """The manifest with what a single row cannot know: the size of its side, and the sides its source is on."""
    frame = clips.to_pandas()
    needed = {"train": prepare.min_train_clips, "validation": prepare.min_validation_clips}
    split = frame["split"]
    frame["duration_s"] = frame["frames"] / frame["fps"]
    frame["clips_in_split"] = split.groupby(split).transform("size")
    frame["needed"] = split.map(needed).fillna(0).astype(int)
    frame["sides_of_scene"] = split.groupby([frame["rendered"], _scenes(frame, prepare)]).transform("nunique")
    frame["sides_of_bytes"] = split.groupby(frame["source_sha256"]).transform("nunique")
    return frame


def _scenes(frame, prepare: Prepare):
    """The scene of every row: videos and photographs each by themselves, as they were split."""
    of_kind = frame.groupby("rendered")["source"]
    return of_kind.transform(lambda sources: sources.map(scenes(sources.unique(), prepare.scene)))


def _site(context, folder: Path) -> None:
    backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    site = {
        "class_name": "SiteBuilder",
        "site_index_builder": index,
        "store_backend": backend,
        "show_how_to_buttons": False,
    }
    for name in list(context.get_site_names()):
        context.delete_data_docs_site(name)
    context.add_data_docs_site(site_name="clips", site_config=site)


def _checkpoint(gx, context, expectations: list):
    asset = context.data_sources.add_pandas("manifest").add_dataframe_asset("clips")
    batch = asset.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=SUITE, expectations=expectations))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=SUITE, data=batch, suite=suite))
    return context.checkpoints.add(
        gx.Checkpoint(name=SUITE, validation_definitions=[definition], result_format=_FORMAT)
    )


def _failure(result, page: Path) -> DataError:
    [outcome] = result.run_results.values()
    lines = [_broken(item) for item in outcome.results if not item.success]
    return DataError(
        "The clips do not meet their expectations",
        got="\n           ".join(lines),
        allowed="see the suite's page",
        where=f"the named files, or the sections clip and prepare of the recipe; {page}",
    )


def _broken(item) -> str:
    settings, seen = item.expectation_config.kwargs, item.result
    column = settings.get("column") or settings.get("column_A") or "the whole list"
    limits = {
        k: settings[k] for k in ("value_set", "min_value", "max_value", "column_B") if settings.get(k) is not None
    }
    names = [str(index["clip_id"]) for index in seen.get("unexpected_index_list") or []]
    more = f" and {len(names) - AT_MOST_NAMED} more" if len(names) > AT_MOST_NAMED else ""
    of = f" in {', '.join(names[:AT_MOST_NAMED])}{more}" if names else ""
    values = seen.get("partial_unexpected_list") or [seen.get("observed_value")]
    got = f", got {'; '.join(dict.fromkeys(_plain(value) for value in values[:3]))}" if values != [None] else ""
    return f"{item.expectation_config.type}: {column} {limits or ''}{got}{of}"


def _plain(value) -> str:
    return " < ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
